"""What a captioner and a transcriber are, and which there are. Models and services are imported when they are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from acestep.captioning.configs import CaptionJob
from acestep.core.events import Event
from acestep.core.registry import Entry, Registry
from acestep.dataset.labels import INSTRUMENTAL, UNKNOWN_LANGUAGE

RATE_HZ = 16_000  # what the models listen at
Stop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Song:
    """One song to work on. ``audio`` [S] is mono at 16 kHz; None when the back end reads the file itself."""

    path: Path
    audio: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Lyrics:
    """Lyrics with section tags, ``[Instrumental]`` when nobody sings. ``complete`` is False when they may be cut."""

    text: str
    language: str = UNKNOWN_LANGUAGE
    complete: bool = True

    @property
    def is_instrumental(self) -> bool:
        return self.text.strip() == INSTRUMENTAL


@dataclass(frozen=True, slots=True)
class Description:
    """What was answered about a song. What was not answered is empty."""

    caption: str
    genre: str = ""
    keyscale: str = ""
    timesignature: str = ""
    bpm: int | None = None
    lyrics: Lyrics | None = None


class Captioner(Protocol):
    """Describes songs. Made once for a batch, closed at its end."""

    @property
    def name(self) -> str:
        """Goes into the labels as their source."""

    @property
    def listens(self) -> bool:
        """Whether songs must be decoded for it."""

    def describe(self, song: Song, *, with_lyrics: bool, stop: Stop) -> Description:
        """Called for each song, one after the other.

        Lyrics come only from back ends that hear both at once, and only when asked for. ``stop`` is asked now and then.

        Raises:
            CaptionError: nothing usable was answered; the next song may do. ServiceRefused: no song will do.
            JobCancelled.
        """

    def close(self) -> None:
        """Called at the end, whatever happened. Frees all memory."""


class Transcriber(Protocol):
    """Writes down lyrics. As ``Captioner``."""

    @property
    def name(self) -> str: ...

    @property
    def listens(self) -> bool: ...

    def transcribe(self, song: Song, *, stop: Stop) -> Lyrics: ...

    def close(self) -> None: ...


Report = Callable[[Event], None]  # tells the user: a choice with its reason, a download

CAPTIONERS: Registry[Entry[Callable[[CaptionJob, Report], Captioner]]] = Registry("captioner", Entry)
TRANSCRIBERS: Registry[Entry[Callable[[CaptionJob, Report], Transcriber]]] = Registry("transcriber", Entry)

_LOCAL = "Nothing leaves this computer. 22 GB to download once; 12 GB of graphics memory in 8 bits, 8 GB in 4 bits."
_GEMINI = "Sends each song to Google. Caption, lyrics and metadata in one call. Needs GEMINI_API_KEY."

CAPTIONERS.register(
    "local",
    target="acestep.captioning.local:LocalCaptioner.load",
    label="On this computer: ACE-Step captioner",
    help=_LOCAL,
)
TRANSCRIBERS.register(
    "local",
    target="acestep.captioning.local:LocalTranscriber.load",
    label="On this computer: ACE-Step transcriber",
    help=_LOCAL,
)
CAPTIONERS.register("gemini", target="acestep.captioning.online:gemini", label="Online: Google Gemini", help=_GEMINI)
TRANSCRIBERS.register("gemini", target="acestep.captioning.online:gemini", label="Online: Google Gemini", help=_GEMINI)
TRANSCRIBERS.register(
    "whisper",
    target="acestep.captioning.online:whisper",
    label="Online: OpenAI Whisper, or a server that speaks like it",
    help="Sends each song to OpenAI or to the address that you give. Needs OPENAI_API_KEY.",
)
TRANSCRIBERS.register(
    "elevenlabs",
    target="acestep.captioning.online:elevenlabs",
    label="Online: ElevenLabs Scribe",
    help="Sends each song to ElevenLabs. Needs ELEVENLABS_API_KEY.",
)
