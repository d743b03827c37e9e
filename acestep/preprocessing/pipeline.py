"""One run of preprocessing: skip what is up to date, encode the rest song by song, keep the manifest current.

Every song's file is whole when it appears and the manifest is rewritten after it, so a run may end at any moment:
the next one goes on with what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from acestep.audio.files import SAMPLE_RATE_HZ
from acestep.core.errors import AceStepError, DatasetError, JobCancelled
from acestep.core.events import Event, ItemFailed, LogMessage, Saved, Started
from acestep.core.workers import MergedEvents
from acestep.dataset.labels import Problem
from acestep.dataset.sample import Dataset, DatasetMetadata
from acestep.models.checkpoint import check_checkpoint, check_vae_and_text_encoder, find_checkpoint
from acestep.models.device import choose_devices, choose_dtype
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.encode import Encoder, Reporter
from acestep.preprocessing.multi_device import encode_shares
from acestep.preprocessing.output import Output
from acestep.preprocessing.sample_sources import Song, apply_overrides, plan_songs, short_name, up_to_date
from acestep.preprocessing.stages import Place

SONG_BYTES = 5 * 2**20  # about a song of four minutes in bf16; its intermediate takes as much again


def preprocess(
    dataset: Dataset,
    root: Path,
    config: PreprocessJob,
    reporter: Reporter,
    problems: Iterable[Problem] = (),
    *,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Encode the songs of ``dataset`` into ``config.out``.

    Args:
        root: the folder that relative audio paths start from.
        problems: what scanning had to leave out; it is told and listed with the songs that fail here.
        folder: the job's run folder, where several devices have theirs; without it there is one in ``config.out``.

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
    check_vae_and_text_encoder(checkpoint)
    device, *_ = choose_devices(config.device, config.devices)
    dtype = choose_dtype(device.value, config.dtype)
    reporter.emit(LogMessage(message=f"device {device.value}: {device.reason}"))
    place = Place(checkpoint, device.value, dtype.value)
    reporter.emit(LogMessage(message=f"precision {place.precision}: {dtype.reason}"))
    run = _Run(apply_overrides(dataset, config), config, place, reporter, folder or config.folder)
    try:
        run.plan(root.resolve(), problems)
        run.encode()
    except JobCancelled:
        ready, total = len(run.output.ready), len(run.output.songs)
        raise JobCancelled(f"{ready} of {total} songs are ready; start again to go on with the rest") from None
    return run.conclude()


class _Run:
    """What one run knows: its songs and their files, what failed, how much memory the models take."""

    def __init__(self, dataset: Dataset, config: PreprocessJob, place: Place, reporter: Reporter, folder: Path) -> None:
        self._dataset, self._config, self._place, self._reporter = dataset, config, place, reporter
        self._folder = folder
        self._peak_bytes = 0
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
        if todo and self._config.devices > 1:
            self._share(todo, total=len(todo) * passes)
        elif todo:
            encoder = Encoder(self._config, self._place, self._reporter, keep=self.output.keep, refuse=self._refuse)
            encoder.encode(todo)
            self._peak_bytes = encoder.live.peak_bytes
        if self._config.two_pass:
            self.output.remove_intermediates()

    def _share(self, todo: list[Song], *, total: int) -> None:
        """A process for each device takes its share; this one keeps the manifest."""
        number = min(self._config.devices, len(todo))
        self._note(f"{number} devices share {len(todo)} songs")
        results = encode_shares(self._config, todo, self._folder, MergedEvents(self._hear, total))
        self._peak_bytes = max(result["peak_model_bytes"] for result in results)

    def _hear(self, event: Event) -> None:
        """What a worker tells of the songs that are its share."""
        if isinstance(event, ItemFailed):
            self._refuse(event.item, AceStepError(event.message, hint=event.hint))
            return
        if isinstance(event, Saved):
            self.output.take(Path(event.path).name)
        self._reporter.emit(event)

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
            "peak_model_bytes": self._peak_bytes,
        }

    def _refuse(self, name: str, problem: AceStepError) -> None:
        self._failed.append({"item": name, "message": str(problem), "hint": problem.hint})
        self._reporter.emit(ItemFailed(item=name, message=str(problem), hint=problem.hint))

    def _none_usable(self) -> DatasetError:
        reasons = "; ".join(f"{item['item']}: {item['message']}" for item in self._failed[:3])
        hints = dict.fromkeys(item["hint"] for item in self._failed if item["hint"])
        number = len(self._dataset.samples)
        return DatasetError(f"none of {number} songs can be used ({reasons})", hint=" ".join(list(hints)[:2]))

    def _note(self, message: str, *, warning: bool = False) -> None:
        self._reporter.emit(LogMessage(message=message, warning=warning))
