"""Data types of captioning, and the interfaces of captioners and transcribers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from acestep.core.events import Event
from acestep.dataset.labels import INSTRUMENTAL, UNKNOWN_LANGUAGE

SAMPLE_RATE_HZ = 16_000  # of the local models and the audio analysis
Stop = Callable[[], bool]
Report = Callable[[Event], None]  # receives messages such as the chosen device or a download's progress


@dataclass(frozen=True, slots=True)
class SongAudio:
    """One song to label.

    Attributes:
        audio: [S] mono samples at 16 kHz; None if the backend reads the file itself.
    """

    path: Path
    audio: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Lyrics:
    """Lyrics with section tags; ``[Instrumental]`` for a song without vocals.

    Attributes:
        complete: False if the lyrics may be truncated.
    """

    text: str
    language: str = UNKNOWN_LANGUAGE
    complete: bool = True

    @property
    def is_instrumental(self) -> bool:
        return self.text.strip() == INSTRUMENTAL


@dataclass(frozen=True, slots=True)
class Description:
    """The labels that a captioner returns for one song. Unknown values are empty or None."""

    caption: str
    genre: str = ""
    keyscale: str = ""
    timesignature: str = ""
    bpm: int | None = None
    lyrics: Lyrics | None = None


class Captioner(Protocol):
    """Describes songs. Created once per job and closed at its end."""

    @property
    def name(self) -> str:
        """Name of the model, which the label files store as the source of the labels."""

    @property
    def needs_audio(self) -> bool:
        """Whether ``Song.audio`` must be decoded."""

    def describe(self, song: SongAudio, *, with_lyrics: bool, stop: Stop) -> Description:
        """Label one song. Called once per song, in sequence.

        Args:
            with_lyrics: also return lyrics. Only True for backends registered with ``with_lyrics``.
            stop: checked regularly; True cancels the call.

        Raises:
            CaptionError: no usable response for this song.
            ServiceRefused: no song can be processed.
            JobCancelled.
        """

    def close(self) -> None:
        """Free all memory. Called at the end of a job, also after an error."""


class Transcriber(Protocol):
    """Transcribes lyrics. See ``Captioner``."""

    @property
    def name(self) -> str: ...

    @property
    def needs_audio(self) -> bool: ...

    def transcribe(self, song: SongAudio, *, stop: Stop) -> Lyrics: ...

    def close(self) -> None: ...
