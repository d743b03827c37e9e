"""Adapters from service clients to the ``Captioner`` and ``Transcriber`` interfaces of a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from acestep.captioning.configs import CaptionJob
from acestep.captioning.schema import Description, Lyrics, SongAudio, Stop
from acestep.captioning.service_client import RetryPolicy


class TranscriptionService(Protocol):
    """A client that transcribes a file. Returns lyrics and language code."""

    model: str
    retry_policy: RetryPolicy

    def transcribe(self, path: str | Path, language: str | None = None) -> tuple[str, str]: ...


class AnalysisService(Protocol):
    """A client that describes a file. See ``GeminiCaptioner.analyze``."""

    model: str
    retry_policy: RetryPolicy

    def analyze(self, path: str | Path, include_lyrics: bool = True, language: str | None = None) -> dict[str, Any]: ...


@dataclass
class OnlineTranscriber:
    """A transcription service as the transcriber of a job."""

    service: TranscriptionService
    language: str
    needs_audio = False

    @property
    def name(self) -> str:
        return self.service.model

    def transcribe(self, song: SongAudio, *, stop: Stop) -> Lyrics:
        self.service.retry_policy.stop = stop
        return Lyrics(*self.service.transcribe(song.path, self.language or None))

    def close(self) -> None:
        """Nothing to free."""


@dataclass
class OnlineCaptioner:
    """An analysis service as the captioner or the transcriber of a job."""

    service: AnalysisService
    language: str
    needs_audio = False

    @property
    def name(self) -> str:
        return self.service.model

    def describe(self, song: SongAudio, *, with_lyrics: bool, stop: Stop) -> Description:
        answer = self._analyze(song, with_lyrics, stop)
        return Description(
            caption=answer["caption"],
            genre=answer["genre"],
            keyscale=answer["keyscale"],
            timesignature=answer["timesignature"],
            bpm=answer["bpm"],
            lyrics=Lyrics(answer["lyrics"], answer["language"]) if with_lyrics else None,
        )

    def transcribe(self, song: SongAudio, *, stop: Stop) -> Lyrics:
        answer = self._analyze(song, True, stop)
        return Lyrics(answer["lyrics"], answer["language"])

    def _analyze(self, song: SongAudio, with_lyrics: bool, stop: Stop) -> dict[str, Any]:
        self.service.retry_policy.stop = stop
        return self.service.analyze(song.path, include_lyrics=with_lyrics, language=self.language or None)

    def close(self) -> None:
        """Nothing to free."""


def retry_policy_of(config: CaptionJob) -> RetryPolicy:
    """The retry settings of a job."""
    return RetryPolicy(config.retries, config.timeout_s)
