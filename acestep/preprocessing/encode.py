"""Encoding songs in this process, in one pass or in two, song by song."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from loguru import logger
from torch import Tensor

from acestep.core.errors import AceStepError, JobCancelled, JobError, StorageError, TensorError
from acestep.core.events import Event, LogMessage, Progressed, Saved
from acestep.models.text import MAX_LYRIC_TOKENS, MAX_PROMPT_TOKENS
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.output import intermediate
from acestep.preprocessing.sample_sources import Song
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


class Reporter(Protocol):
    """The way to whoever waits: a job's Context, or the listener of a DatasetBuilder."""

    def emit(self, event: Event) -> None:
        """Told of every event, in the thread that works."""

    def stop_if_cancelled(self) -> None:
        """Asked between two songs by whoever encodes them. Raises JobCancelled to stop; what is done stays."""


class Encoder:
    """Makes the tensor files of songs; ``keep`` writes a finished one, ``refuse`` is told of what failed."""

    def __init__(
        self,
        config: PreprocessJob,
        place: Place,
        reporter: Reporter,
        *,
        keep: Callable[[Song, TensorRecord], Path],
        refuse: Callable[[str, AceStepError], None],
    ) -> None:
        self._config, self._place, self._reporter = config, place, reporter
        self._write, self._refuse = keep, refuse
        self.live = LiveModels()

    def encode(self, songs: list[Song]) -> None:
        """Raises CheckpointError, JobCancelled, JobError when the memory is too small, StorageError."""
        (self._in_two_passes if self._config.two_pass else self._in_one_pass)(songs)

    def _in_one_pass(self, todo: list[Song]) -> None:
        features_of, condition_of = FeatureStage(self._place, self.live), ConditionStage(self._place, self.live)
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

    def _first_pass(self, todo: list[Song]) -> list[Song]:
        """The songs whose features are on the disk, now or from an interrupted run."""
        done = {song.file for song in todo if read_features(intermediate(self._config.out, song), song)}
        pending = [song for song in todo if song.file not in done]
        if pending:
            features_of = FeatureStage(self._place, self.live)
            self._note_memory("pass 1 of 2, VAE and text encoder")
        for number, (song, audio) in enumerate(self._sounds(pending), start=len(done) + 1):
            with self._border(song):
                features = self._features(features_of, song, audio)
                write_features(intermediate(self._config.out, song), song, features)
                done.add(song.file)
            self._reporter.emit(Progressed(done=number, total=2 * len(todo), note=f"{song.name} (pass 1)"))
        return [song for song in todo if song.file in done]

    def _second_pass(self, songs: list[Song], *, total: int) -> None:
        condition_of = ConditionStage(self._place, self.live)
        self._note_memory("pass 2 of 2, condition encoder")
        for number, song in enumerate(songs, start=total - len(songs) + 1):
            self._reporter.stop_if_cancelled()
            with self._border(song):
                features = read_features(intermediate(self._config.out, song), song)
                if features is None:
                    raise TensorError("what pass 1 made of it has gone", hint="Start again.")
                self._keep(song, condition_of(song, features))
            intermediate(self._config.out, song).unlink(missing_ok=True)
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
        path = self._write(song, record)
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

    def _note(self, message: str, *, warning: bool = False) -> None:
        self._reporter.emit(LogMessage(message=message, warning=warning))

    def _note_memory(self, what: str) -> None:
        self._note(f"{what}: {self.live.bytes / 2**20:.1f} MiB of models in memory")
