"""Lyrics from ElevenLabs Scribe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from acestep.captioning.cloud import ELEVENLABS, Client, Patience, find_key, json_of, size_of
from acestep.captioning.folders import for_each
from acestep.captioning.sidecar import write_lyrics
from acestep.captioning.words import language_code, lines_from_words, read_words

URL = "https://api.elevenlabs.io"


class ElevenLabsTranscriber:
    """Transcribes sound files with the times of their words."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        model: str = "scribe_v2",
        base_url: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        """``api_key`` may also stand in ELEVENLABS_API_KEY. Raises ServiceRefused without one."""
        self.model, self.patience = model, patience or Patience()
        self._url, self._key = (base_url or URL).rstrip("/"), find_key(ELEVENLABS, api_key)

    def transcribe(self, path: str | Path, language: str | None = None) -> tuple[str, str]:
        """Lyrics in lines, and the code of their language.

        Args:
            language: a code such as ``en``, when it is known.

        Raises:
            AudioError: the file cannot be sent. ServiceError: no usable answer. ServiceRefused: wrong key, no credit.
        """
        path = Path(path)
        size_of(path, ELEVENLABS)
        fields = {"model_id": self.model, "timestamps_granularity": "word", "tag_audio_events": "false"}
        fields |= {"language_code": language} if language else {}

        def send(http: httpx.Client) -> httpx.Response:
            with path.open("rb") as sound:
                return http.post(f"{self._url}/v1/speech-to-text", data=fields, files={"file": (path.name, sound)})

        with Client(ELEVENLABS, self._url, {"xi-api-key": self._key}, self._key, self.patience) as client:
            answer = client.ask(send, json_of)
        heard = language_code(str(answer.get("language_code") or language or ""))
        return lines_from_words(read_words(answer.get("words") or []), str(answer.get("text") or "")), heard

    def transcribe_directory(self, directory: str | Path, language: str | None = None) -> list[dict[str, Any]]:
        """Transcribe each song of a folder and write its ``.lyrics.txt``.

        One dictionary a song: ``filename``, ``path``, and either ``lyrics`` and ``language`` or ``error`` and ``hint``.
        """

        def work(path: Path) -> dict[str, Any]:
            lyrics, heard = self.transcribe(path, language)
            write_lyrics(path, lyrics)
            return {"lyrics": lyrics, "language": heard}

        return for_each(directory, work)
