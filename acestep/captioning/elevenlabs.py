"""Client for ElevenLabs Scribe: lyrics with word timestamps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from acestep.captioning.api_keys import find_key
from acestep.captioning.backends import TRANSCRIBERS
from acestep.captioning.configs import CaptionJob
from acestep.captioning.folder_batch import for_each
from acestep.captioning.online import OnlineTranscriber, retry_policy_of
from acestep.captioning.schema import Report
from acestep.captioning.service_client import RetryPolicy, ServiceClient, json_object, upload_size
from acestep.captioning.sidecar import write_lyrics
from acestep.captioning.word_timestamps import lines_from_words, read_words
from acestep.dataset.languages import language_code

SERVICE = TRANSCRIBERS["elevenlabs"]
URL = SERVICE.url


class ElevenLabsTranscriber:
    """Transcribes audio files with word timestamps."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        model: str = SERVICE.model,
        base_url: str | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """``api_key`` defaults to ELEVENLABS_API_KEY. Raises ServiceRefused without a key."""
        self.model, self.retry_policy = model, retry_policy or RetryPolicy()
        self._url, self._key = (base_url or URL).rstrip("/"), find_key(SERVICE, api_key)

    def transcribe(self, path: str | Path, language: str | None = None) -> tuple[str, str]:
        """Return lyrics in lines and their language code.

        Args:
            language: a code such as ``en``; None detects it.

        Raises:
            AudioError: the file cannot be uploaded.
            ServiceError: no usable response.
            ServiceRefused: wrong key or no credit.
        """
        path = Path(path)
        upload_size(path, SERVICE.service, SERVICE.max_upload_bytes)
        fields = {"model_id": self.model, "timestamps_granularity": "word", "tag_audio_events": "false"}
        fields |= {"language_code": language} if language else {}

        def send(http: httpx2.Client) -> httpx2.Response:
            with path.open("rb") as audio:
                return http.post(f"{self._url}/v1/speech-to-text", data=fields, files={"file": (path.name, audio)})

        headers = {"xi-api-key": self._key}
        with ServiceClient(SERVICE.service, self._url, headers, self._key, self.retry_policy) as client:
            answer = client.request(send, json_object)
        detected = language_code(str(answer.get("language_code") or language or ""))
        return lines_from_words(read_words(answer.get("words") or []), str(answer.get("text") or "")), detected

    def transcribe_directory(self, directory: str | Path, language: str | None = None) -> list[dict[str, Any]]:
        """Transcribe each song in a folder and write its ``.lyrics.txt``.

        Returns:
            One dictionary per song: ``filename``, ``path``, and either ``lyrics`` and ``language`` or ``error`` and
            ``hint``.
        """

        def label_song(path: Path) -> dict[str, Any]:
            lyrics, detected = self.transcribe(path, language)
            write_lyrics(path, lyrics)
            return {"lyrics": lyrics, "language": detected}

        return for_each(directory, label_song)


def backend(config: CaptionJob, report: Report) -> OnlineTranscriber:
    """The transcriber of a job. Raises ServiceRefused without a key."""
    client = ElevenLabsTranscriber(
        model=SERVICE.model_in(config), base_url=SERVICE.url_in(config), retry_policy=retry_policy_of(config)
    )
    return OnlineTranscriber(client, config.language)
