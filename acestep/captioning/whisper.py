"""Lyrics from OpenAI's transcription service, or from one's own server that speaks like it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from acestep.captioning.cloud import OPENAI, Client, Patience, find_key, json_of, size_of
from acestep.captioning.folders import for_each
from acestep.captioning.sidecar import write_lyrics
from acestep.captioning.words import language_code, lines_from_words, read_words

URL = "https://api.openai.com/v1"


class WhisperTranscriber:
    """Transcribes sound files with the times of their words. A file above 25 MB is sent as an MP3 made of it."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        model: str = "whisper-1",
        base_url: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        """``api_key`` may also stand in OPENAI_API_KEY. Raises ServiceRefused without one.

        A server of one's own, at another ``base_url``, may need none.
        """
        self.model, self.patience = model, patience or Patience()
        self._url = (base_url or URL).rstrip("/")
        self._key = find_key(OPENAI, api_key, needed=self._url == URL)

    def transcribe(self, path: str | Path, language: str | None = None, prompt: str | None = None) -> tuple[str, str]:
        """Lyrics in lines, and the code of their language.

        Args:
            language: a code such as ``en``, when it is known.
            prompt: words that will be sung, for their spelling.

        Raises:
            AudioError: the file cannot be sent. ServiceError: no usable answer. ServiceRefused: wrong key, no credit.
        """
        answer = self._answer(Path(path), language, prompt)
        words = read_words(answer.get("words") or [])
        heard = language_code(str(answer.get("language") or language or ""))
        return lines_from_words(words, str(answer.get("text") or "")), heard

    def transcribe_directory(self, directory: str | Path, language: str | None = None) -> list[dict[str, Any]]:
        """Transcribe each song of a folder and write its ``.lyrics.txt``.

        One dictionary a song: ``filename``, ``path``, and either ``lyrics`` and ``language`` or ``error`` and ``hint``.
        """

        def work(path: Path) -> dict[str, Any]:
            lyrics, heard = self.transcribe(path, language)
            write_lyrics(path, lyrics)
            return {"lyrics": lyrics, "language": heard}

        return for_each(directory, work)

    def _answer(self, path: Path, language: str | None, prompt: str | None) -> dict[str, Any]:
        fields = {"model": self.model, "response_format": "verbose_json", "timestamp_granularities[]": "word"}
        fields |= {name: value for name, value in (("language", language), ("prompt", prompt)) if value}
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with _sendable(path) as file, Client(OPENAI, self._url, headers, self._key, self.patience) as client:

            def send(http: httpx.Client) -> httpx.Response:
                with file.open("rb") as sound:
                    return http.post(
                        f"{self._url}/audio/transcriptions", data=fields, files={"file": (file.name, sound)}
                    )

            return client.ask(send, json_of)


@contextmanager
def _sendable(path: Path) -> Iterator[Path]:
    """The file, or for the time of the block an MP3 of it that the service takes."""
    if path.is_file() and path.stat().st_size > OPENAI.max_bytes:
        from acestep.audio.files import SAMPLE_RATE_HZ, load_audio, write_audio

        with tempfile.TemporaryDirectory() as folder:
            small = Path(folder) / f"{path.stem}.mp3"
            write_audio(small, load_audio(path).mean(dim=0, keepdim=True), SAMPLE_RATE_HZ)
            size_of(small, OPENAI)
            yield small
    else:
        size_of(path, OPENAI)
        yield path
