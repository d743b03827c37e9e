"""Client for OpenAI's transcription API or an OpenAI-compatible server: lyrics with word timestamps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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

SERVICE = TRANSCRIBERS["whisper"]
URL = SERVICE.url
_MAX_BYTES = SERVICE.max_upload_bytes or 25 * 2**20


class WhisperTranscriber:
    """Transcribes audio files with word timestamps. A file above the upload limit is converted to MP3 first."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        model: str = SERVICE.model,
        base_url: str | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """``api_key`` defaults to OPENAI_API_KEY. Raises ServiceRefused without a key.

        Another server at ``base_url`` may work without a key.
        """
        self.model, self.retry_policy = model, retry_policy or RetryPolicy()
        self._url = (base_url or URL).rstrip("/")
        self._key = find_key(SERVICE, api_key, required=self._url == URL)

    def transcribe(self, path: str | Path, language: str | None = None, prompt: str | None = None) -> tuple[str, str]:
        """Return lyrics in lines and their language code.

        Args:
            language: a code such as ``en``; None detects it.
            prompt: words that occur in the song, to guide their spelling.

        Raises:
            AudioError: the file cannot be uploaded.
            ServiceError: no usable response.
            ServiceRefused: wrong key or no credit.
        """
        answer = self._request(Path(path), language, prompt)
        words = read_words(answer.get("words") or [])
        detected = language_code(str(answer.get("language") or language or ""))
        return lines_from_words(words, str(answer.get("text") or "")), detected

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

    def _request(self, path: Path, language: str | None, prompt: str | None) -> dict[str, Any]:
        fields = {"model": self.model, "response_format": "verbose_json", "timestamp_granularities[]": "word"}
        fields |= {name: value for name, value in (("language", language), ("prompt", prompt)) if value}
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        client = ServiceClient(SERVICE.service, self._url, headers, self._key, self.retry_policy)
        with _uploadable(path) as file, client:

            def send(http: httpx2.Client) -> httpx2.Response:
                with file.open("rb") as audio:
                    return http.post(
                        f"{self._url}/audio/transcriptions", data=fields, files={"file": (file.name, audio)}
                    )

            return client.request(send, json_object)


@contextmanager
def _uploadable(path: Path) -> Iterator[Path]:
    """Yield the file, or a temporary MP3 of it if it exceeds the upload limit."""
    if path.is_file() and path.stat().st_size > _MAX_BYTES:
        from acestep.audio.files import SAMPLE_RATE_HZ, load_audio, write_audio

        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / f"{path.stem}.mp3"
            write_audio(small, load_audio(path).mean(dim=0, keepdim=True), SAMPLE_RATE_HZ)
            upload_size(small, SERVICE.service, _MAX_BYTES)
            yield small
    else:
        upload_size(path, SERVICE.service, _MAX_BYTES)
        yield path


def backend(config: CaptionJob, report: Report) -> OnlineTranscriber:
    """The transcriber of a job. Raises ServiceRefused without a key."""
    client = WhisperTranscriber(
        model=SERVICE.model_in(config), base_url=SERVICE.url_in(config), retry_policy=retry_policy_of(config)
    )
    return OnlineTranscriber(client, config.language)
