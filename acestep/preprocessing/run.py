"""One run of preprocessing: skip what is up to date, encode the rest song by song, keep the manifest current.

Every song's file is whole when it appears and the manifest is rewritten after it, so a run may end at any moment:
the next one goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from loguru import logger
from torch import Tensor

from acestep.audio.files import SAMPLE_RATE_HZ
from acestep.core.errors import AceStepError, DatasetError, JobCancelled, JobError, StorageError, TensorError
from acestep.core.events import Event, ItemFailed, Noted, Progressed, Saved, Started
from acestep.dataset.labels import Problem
from acestep.dataset.sample import Dataset, DatasetMetadata
from acestep.models.checkpoint import check_checkpoint, check_companions, find_checkpoint
from acestep.models.device import choose_device, choose_dtype
from acestep.models.text import MAX_LYRIC_TOKENS, MAX_PROMPT_TOKENS
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.output import Output
from acestep.preprocessing.plan import Song, apply_overrides, plan_songs, short_name, up_to_date
from acestep.preprocessing.stages import (
    ConditionStage,
    Features,
    FeatureStage,
    LiveModels,
    Place,
    decoded_ahead,
    read_features,
    release,
    write_features,
)
from acestep.tensors.record import TensorRecord

SONG_BYTES = 5 * 2**20  # about a song of four minutes in bf16; its intermediate takes as much again


class Reporter(Protocol):
    """The way to whoever waits: a job's Context, or the listener of a DatasetBuilder."""

    def emit(self, event: Event) -> None:
        """Told of every event, in the thread that works."""

    def stop_if_cancelled(self) -> None:
        """Asked between two songs. Raises JobCancelled to stop; what is done stays."""


def preprocess(
    dataset: Dataset, root: Path, config: PreprocessJob, reporter: Reporter, problems: Iterable[Problem] = ()
) -> dict[str, Any]:
    """Encode the songs of ``dataset`` into ``config.out``.

    Args:
        root: the folder that relative audio paths start from.
        problems: what scanning had to leave out; it is told and listed with the songs that fail here.

    Returns:
        Plain JSON: how many songs are ready, made and up to date, what failed and why, which files in the folder
        are not used, and the peak of the models' memory.

    Raises:
        CheckpointError, ConfigError: before anything is written.
        DatasetError: no song can be used.
        DiskFull, NotWritable, StorageError: what was done before stays.
        JobCancelled: likewise.
    """
    checkpoint = find_checkpoint(config.checkpoint)
    check_checkpoint(checkpoint)
    check_companions(checkpoint)
    device = choose_device(config.device)
    dtype = choose_dtype(device.value, config.dtype)
    reporter.emit(Noted(message=f"device {device.value}: {device.reason}"))
    place = Place(checkpoint, device.value, dtype.value)
    reporter.emit(Noted(message=f"precision {place.precision}: {dtype.reason}"))
    run = _Run(apply_overrides(dataset, config), config, place, reporter)
    try:
        run.plan(root.resolve(), problems)
        run.encode()
    except JobCancelled:
        ready, total = len(run.output.ready), len(run.output.songs)
        raise JobCancelled(f"{ready} of {total} songs are ready; start again to go on with the rest") from None
    return run.conclude()


class _Run:
    """What one run knows: its songs and their files, what failed, how much memory the models take."""

    def __init__(self, dataset: Dataset, config: PreprocessJob, place: Place, reporter: Reporter) -> None:
        self._dataset, self._config, self._place, self._reporter = dataset, config, place, reporter
        self._live = LiveModels()
        self._failed: list[dict[str, str]] = []
        self._up_to_date = 0
        self.output = Output(
            config.out,
            metadata=dataset.metadata.model_dump(mode="json", include=set(DatasetMetadata.model_fields)),
            preprocessing={
                "max_duration": config.max_duration_s,
                "target_sample_rate": SAMPLE_RATE_HZ,
                "genre_ratio": dataset.metadata.genre_ratio,
                "audio_normalization": config.normalize,
                "model_checkpoint": place.checkpoint.name,
                **({"mode": "two_pass"} if config.two_pass else {}),
            },
        )

    def plan(self, root: Path, problems: Iterable[Problem]) -> None:
        """Find out which songs there are and which are ready. Raises DatasetError when none can be used."""
        for problem in problems:
            self._refuse(short_name(problem.path, root), DatasetError(problem.message, hint=problem.hint))
        config, place = self._config, self._place
        for song in plan_songs(self._dataset, root, config, place.checkpoint, place.precision, self._refuse):
            self._reporter.stop_if_cancelled()
            self.output.songs.append(song)
            if details := up_to_date(config.out, song):
                self.output.ready[song.file] = details
        if not self.output.songs:
            raise self._none_usable()
        self._up_to_date = len(self.output.ready)
        if self._up_to_date:
            self._note(f"{self._up_to_date} of {len(self.output.songs)} songs are up to date")

    def encode(self) -> None:
        """Make the missing files."""
        todo, passes = self.output.missing, 2 if self._config.two_pass else 1
        self.output.prepare(len(todo) * SONG_BYTES * passes)
        unit = "songs" if passes == 1 else "song passes"
        self._reporter.emit(Started(job="preprocess", total=len(todo) * passes, unit=unit))
        if todo:
            (self._in_two_passes if self._config.two_pass else self._in_one_pass)(todo)

    def conclude(self) -> dict[str, Any]:
        """Write the final manifest and say what became of every song. Raises DatasetError when none is ready."""
        output = self.output
        if not output.ready:
            raise self._none_usable()
        output.write_manifest()
        if unused := output.unused():
            names = ", ".join(unused[:5])
            reason = "their songs have left the dataset or could not be encoded"
            self._note(f"{len(unused)} files in {output.folder} are not used, {reason}: {names}", warning=True)
        return {
            "out": str(output.folder),
            "mode": "two_pass" if self._config.two_pass else "standard",
            "songs": len(self._dataset.samples),
            "ready": len(output.ready),
            "made": len(output.ready) - self._up_to_date,
            "up_to_date": self._up_to_date,
            "failed": self._failed,
            "unused_files": unused,
            "peak_model_bytes": self._live.peak_bytes,
        }

    def _in_one_pass(self, todo: list[Song]) -> None:
        features_of, condition_of = FeatureStage(self._place, self._live), ConditionStage(self._place, self._live)
        self._note_memory("VAE, text encoder and condition encoder")
        for number, (song, audio) in enumerate(self._sounds(todo), start=1):
            with self._border(song):
                self._keep(song, condition_of(song, self._features(features_of, song, audio)))
            self._reporter.emit(Progressed(done=number, total=len(todo), note=song.name))

    def _in_two_passes(self, todo: list[Song]) -> None:
        halfway = self._first_pass(todo)
        release(self._place.device)
        self._note_memory("pass 1 is done, its models are freed")
        if halfway:
            self._second_pass(halfway, total=2 * len(todo))
        self.output.remove_intermediates()

    def _first_pass(self, todo: list[Song]) -> list[Song]:
        """The songs whose features are on the disk, now or from an interrupted run."""
        done = {song.file for song in todo if read_features(self.output.intermediate(song), song)}
        pending = [song for song in todo if song.file not in done]
        if pending:
            features_of = FeatureStage(self._place, self._live)
            self._note_memory("pass 1 of 2, VAE and text encoder")
        for number, (song, audio) in enumerate(self._sounds(pending), start=len(done) + 1):
            with self._border(song):
                features = self._features(features_of, song, audio)
                write_features(self.output.intermediate(song), song, features)
                done.add(song.file)
            self._reporter.emit(Progressed(done=number, total=2 * len(todo), note=f"{song.name} (pass 1)"))
        return [song for song in todo if song.file in done]

    def _second_pass(self, songs: list[Song], *, total: int) -> None:
        condition_of = ConditionStage(self._place, self._live)
        self._note_memory("pass 2 of 2, condition encoder")
        for number, song in enumerate(songs, start=total - len(songs) + 1):
            self._reporter.stop_if_cancelled()
            with self._border(song):
                features = read_features(self.output.intermediate(song), song)
                if features is None:
                    raise TensorError("what pass 1 made of it has gone", hint="Start again.")
                self._keep(song, condition_of(song, features))
            self.output.intermediate(song).unlink(missing_ok=True)
            self._reporter.emit(Progressed(done=number, total=total, note=f"{song.name} (pass 2)"))

    def _sounds(self, songs: list[Song]) -> Iterator[tuple[Song, Future[Tensor]]]:
        for song, audio in decoded_ahead(songs, self._config.normalize, self._config.max_duration_s):
            self._reporter.stop_if_cancelled()
            yield song, audio

    def _features(self, features_of: FeatureStage, song: Song, audio: Future[Tensor]) -> Features:
        features = features_of(song, audio.result())
        for what, states, limit in (
            ("caption", features.text_hidden_states, MAX_PROMPT_TOKENS),
            ("lyrics", features.lyric_hidden_states, MAX_LYRIC_TOKENS),
        ):
            if len(states) >= limit:
                self._note(f"{song.name}: the model reads the first {limit} tokens of the {what} only", warning=True)
        return features

    def _keep(self, song: Song, record: TensorRecord) -> None:
        path = self.output.keep(song, record)
        self._reporter.emit(Saved(path=str(path), role="tensor"))

    @contextmanager
    def _border(self, song: Song) -> Iterator[None]:
        """One song's trouble ends here; that of the disk, the memory or the user ends the run."""
        try:
            yield
        except (JobCancelled, StorageError):
            raise
        except torch.OutOfMemoryError:
            hint = "Use two-pass preprocessing, close other programs, or choose the device cpu."
            raise JobError(f"{self._place.device} has too little memory for {song.name}", hint=hint) from None
        except AceStepError as problem:
            message = str(problem).removeprefix(str(song.audio)).lstrip(" :")  # the song is named anyway
            self._refuse(song.name, AceStepError(message, hint=problem.hint))
        except Exception as problem:  # noqa: BLE001 - the border of one song: the rest goes on
            logger.exception("{} failed", song.name)
            self._refuse(song.name, AceStepError(repr(problem), hint="This is our fault; the log has the details."))

    def _refuse(self, name: str, problem: AceStepError) -> None:
        self._failed.append({"item": name, "message": str(problem), "hint": problem.hint})
        self._reporter.emit(ItemFailed(item=name, message=str(problem), hint=problem.hint))

    def _none_usable(self) -> DatasetError:
        reasons = "; ".join(f"{item['item']}: {item['message']}" for item in self._failed[:3])
        hints = dict.fromkeys(item["hint"] for item in self._failed if item["hint"])
        number = len(self._dataset.samples)
        return DatasetError(f"none of {number} songs can be used ({reasons})", hint=" ".join(list(hints)[:2]))

    def _note(self, message: str, *, warning: bool = False) -> None:
        self._reporter.emit(Noted(message=message, warning=warning))

    def _note_memory(self, what: str) -> None:
        self._note(f"{what}: {self._live.bytes / 2**20:.1f} MiB of models in memory")
