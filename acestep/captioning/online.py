"""The online services as back ends of a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from acestep.captioning.base import Description, Lyrics, Report, Song, Stop
from acestep.captioning.configs import CaptionJob
from acestep.captioning.elevenlabs import ElevenLabsTranscriber
from acestep.captioning.gemini import GeminiCaptioner
from acestep.captioning.service_client import RetryPolicy
from acestep.captioning.whisper import WhisperTranscriber


@dataclass
class OnlineTranscriber:
    """A service as the transcriber of a job."""

    service: WhisperTranscriber | ElevenLabsTranscriber
    language: str
    listens = False

    @property
    def name(self) -> str:
        return self.service.model

    def transcribe(self, song: Song, *, stop: Stop) -> Lyrics:
        self.service.retry_policy.stop = stop
        return Lyrics(*self.service.transcribe(song.path, self.language or None))

    def close(self) -> None:
        """Nothing is held."""


@dataclass
class OnlineCaptioner:
    """Gemini as the captioner of a job, or as its transcriber."""

    service: GeminiCaptioner
    language: str
    listens = False

    @property
    def name(self) -> str:
        return self.service.model

    def describe(self, song: Song, *, with_lyrics: bool, stop: Stop) -> Description:
        answer = self._ask(song, with_lyrics, stop)
        return Description(
            caption=answer["caption"],
            genre=answer["genre"],
            keyscale=answer["keyscale"],
            timesignature=answer["timesignature"],
            bpm=answer["bpm"],
            lyrics=Lyrics(answer["lyrics"], answer["language"]) if with_lyrics else None,
        )

    def transcribe(self, song: Song, *, stop: Stop) -> Lyrics:
        answer = self._ask(song, True, stop)
        return Lyrics(answer["lyrics"], answer["language"])

    def _ask(self, song: Song, with_lyrics: bool, stop: Stop) -> dict[str, Any]:
        self.service.retry_policy.stop = stop
        return self.service.analyze(song.path, include_lyrics=with_lyrics, language=self.language or None)

    def close(self) -> None:
        """Nothing is held."""


def whisper(config: CaptionJob, report: Report) -> OnlineTranscriber:
    """Raises ServiceRefused without a key."""
    service = WhisperTranscriber(
        model=config.whisper_model,
        base_url=config.openai_url,
        retry_policy=RetryPolicy(config.retries, config.timeout_s),
    )
    return OnlineTranscriber(service, config.language)


def elevenlabs(config: CaptionJob, report: Report) -> OnlineTranscriber:
    """Raises ServiceRefused without a key."""
    service = ElevenLabsTranscriber(
        model=config.elevenlabs_model,
        base_url=config.elevenlabs_url,
        retry_policy=RetryPolicy(config.retries, config.timeout_s),
    )
    return OnlineTranscriber(service, config.language)


def gemini(config: CaptionJob, report: Report) -> OnlineCaptioner:
    """Raises ServiceRefused without a key."""
    service = GeminiCaptioner(
        model=config.gemini_model,
        base_url=config.gemini_url,
        retry_policy=RetryPolicy(config.retries, config.timeout_s),
    )
    return OnlineCaptioner(service, config.language)
