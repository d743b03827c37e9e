"""Caption, lyrics and metadata from Google Gemini in one call, as JSON of a given form."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from loguru import logger

from acestep.captioning import prompts
from acestep.captioning.cloud import GEMINI, Client, Patience, TryAgain, find_key, json_of, size_of
from acestep.captioning.folders import for_each
from acestep.captioning.lyrics import tidy_lyrics
from acestep.captioning.parse import parse_key, parse_timesignature
from acestep.captioning.sidecar import write_caption, write_lyrics
from acestep.captioning.words import language_code
from acestep.core.errors import AceStepError, ServiceError
from acestep.core.files import write_json

URL = "https://generativelanguage.googleapis.com"
INLINE_BYTES = 14 * 2**20  # a request may have 20 MB, and base64 makes four bytes of three
_POLLS, _POLL_S = 150, 2.0
_TYPES = {".mp3": "audio/mpeg", ".wav": "audio/wav", ".flac": "audio/flac", ".opus": "audio/ogg", ".m4a": "audio/mp4"}
_BLOCKED = ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE")


class GeminiCaptioner:
    """Describes and transcribes sound files. A large one goes through the Files API and is deleted there afterwards."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        model: str = "gemini-flash-latest",
        base_url: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        """``api_key`` may also stand in GEMINI_API_KEY or GOOGLE_API_KEY. Raises ServiceRefused without one."""
        self.model, self.patience = model, patience or Patience()
        self._url, self._key = (base_url or URL).rstrip("/"), find_key(GEMINI, api_key)

    def analyze(self, path: str | Path, include_lyrics: bool = True, language: str | None = None) -> dict[str, Any]:
        """``caption``, ``genre``, ``bpm``, ``keyscale``, ``timesignature``, ``lyrics`` and ``language`` of a song.

        What the model does not know is empty, ``bpm`` None. ``lyrics`` are ``[Instrumental]`` when nobody
        sings, and empty when they were not asked for.

        Raises:
            AudioError: the file cannot be sent. ServiceError: no usable answer. ServiceRefused: wrong key, no credit.
        """
        path = Path(path)
        size = size_of(path, GEMINI)
        with Client(GEMINI, self._url, {"x-goog-api-key": self._key}, self._key, self.patience) as client:
            if size <= INLINE_BYTES:
                sound = {"mimeType": _mime(path), "data": base64.b64encode(path.read_bytes()).decode()}
                return self._generate(client, {"inlineData": sound}, include_lyrics, language)
            with self._uploaded(client, path, size) as uri:
                sound = {"mimeType": _mime(path), "fileUri": uri}
                return self._generate(client, {"fileData": sound}, include_lyrics, language)

    def analyze_directory(
        self, directory: str | Path, output_dir: str | Path | None = None, include_lyrics: bool = True
    ) -> list[dict[str, Any]]:
        """Analyse each song of a folder; write its ``.caption.txt``, its ``.lyrics.txt`` and its JSON.

        Args:
            output_dir: where the JSON files go; the text files stand beside the songs.

        Returns:
            One dictionary a song: ``filename``, ``path``, and what ``analyze`` gives, or ``error`` and ``hint``.
        """

        def work(path: Path) -> dict[str, Any]:
            result = self.analyze(path, include_lyrics)
            write_caption(path, result["caption"])
            write_lyrics(path, result["lyrics"])
            if output_dir is not None:
                named = {**result, "filename": path.name, "path": str(path.absolute())}
                write_json(Path(output_dir).expanduser() / f"{path.stem}.json", named)
            return result

        return for_each(directory, work)

    def _generate(
        self, client: Client, sound: dict[str, Any], include_lyrics: bool, language: str | None
    ) -> dict[str, Any]:
        prompt = prompts.GEMINI + (prompts.GEMINI_LYRICS if include_lyrics else "")
        if language:
            prompt += f"\nThe language that is sung is {language}."
        body = {
            "contents": [{"role": "user", "parts": [sound, {"text": prompt}]}],
            "generationConfig": {"responseMimeType": "application/json", "responseSchema": _schema(include_lyrics)},
        }

        def send(http: httpx.Client) -> httpx.Response:
            return http.post(f"{self._url}/v1beta/models/{self.model}:generateContent", json=body)

        return client.ask(send, lambda response: _read(response, include_lyrics))

    @contextmanager
    def _uploaded(self, client: Client, path: Path, size: int) -> Iterator[str]:
        """The address of the file at Google, for the time of the block."""
        file = self._upload(client, path, size)
        name = str(file.get("name"))
        try:
            for _ in range(_POLLS):
                if file.get("state") == "ACTIVE":
                    break
                if file.get("state") == "FAILED":
                    raise ServiceError(f"{GEMINI.label} cannot read {path.name}", hint="Convert it to MP3.")
                self.patience.pause(_POLL_S)
                file = client.ask(lambda http: http.get(f"{self._url}/v1beta/{name}"), json_of)
            else:
                raise ServiceError(f"{GEMINI.label} did not get {path.name} ready", hint="Try again later.")
            yield str(file.get("uri"))
        finally:
            self._delete(client, name)

    def _upload(self, client: Client, path: Path, size: int) -> dict[str, Any]:
        """The resumable upload of the Files API, in one piece."""
        start = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size),
            "X-Goog-Upload-Header-Content-Type": _mime(path),
        }

        def send(http: httpx.Client) -> httpx.Response:
            opened = http.post(
                f"{self._url}/upload/v1beta/files", headers=start, json={"file": {"display_name": path.name}}
            )
            target = opened.headers.get("x-goog-upload-url")
            if not opened.is_success or not target:
                return opened
            with path.open("rb") as content:
                return http.post(
                    target,
                    content=content,
                    headers={
                        "Content-Length": str(size),
                        "X-Goog-Upload-Offset": "0",
                        "X-Goog-Upload-Command": "upload, finalize",
                    },
                )

        def read(response: httpx.Response) -> dict[str, Any]:
            file = json_of(response).get("file")
            if not isinstance(file, dict) or not str(file.get("name", "")).startswith("files/"):
                raise TryAgain("did not take the file")
            return file

        return client.ask(send, read)

    def _delete(self, client: Client, name: str) -> None:
        """Without it Google keeps the file for two days. A failure is told in the log only: the answer counts."""
        try:
            client.ask(lambda http: http.delete(f"{self._url}/v1beta/{name}"), lambda response: None)
        except AceStepError as error:
            logger.warning("{} was not deleted at {}: {}", name, GEMINI.label, error)


def _mime(path: Path) -> str:
    guessed = _TYPES.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0] or ""
    return guessed if guessed.startswith("audio/") else "audio/mpeg"


def _schema(include_lyrics: bool) -> dict[str, Any]:
    text = {"type": "STRING"}
    properties: dict[str, Any] = {
        "caption": text,
        "genre": text,
        "bpm": {"type": "INTEGER"},
        "keyscale": text,
        "timesignature": text,
        "language": text,
    }
    if include_lyrics:
        properties["lyrics"] = text
    return {"type": "OBJECT", "properties": properties, "required": list(properties)}


def _read(response: httpx.Response, include_lyrics: bool) -> dict[str, Any]:
    """The answer, checked. Raises TryAgain, ServiceError."""
    answer = json_of(response)
    reason = (answer.get("promptFeedback") or {}).get("blockReason")
    candidate = (answer.get("candidates") or [{}])[0]
    reason = reason or (candidate.get("finishReason") if candidate.get("finishReason") in _BLOCKED else None)
    if reason:
        raise ServiceError(
            f"{GEMINI.label} will not describe this song: {reason}", hint="Use another captioner for it."
        )
    parts = (candidate.get("content") or {}).get("parts") or []
    text = "".join(str(part.get("text", "")) for part in parts if not part.get("thought"))
    text = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if not text:
        raise TryAgain("answered nothing")
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        raise TryAgain("answered something that is not JSON") from None
    data = data[0] if isinstance(data, list) and data else data
    if not isinstance(data, dict) or not str(data.get("caption") or "").strip():
        raise TryAgain("gave no caption")
    return _checked(data, include_lyrics)


def _checked(data: dict[str, Any], include_lyrics: bool) -> dict[str, Any]:
    """Only values that can be: a key of the 70, a whole tempo, a known language."""

    def text(name: str) -> str:
        return str(data.get(name) or "").strip()

    try:
        bpm = round(float(text("bpm") or 0))
    except (ValueError, OverflowError):
        bpm = 0
    return {
        "caption": text("caption"),
        "genre": text("genre"),
        "bpm": bpm if 30 <= bpm <= 300 else None,
        "keyscale": parse_key(f"key: {text('keyscale')}"),
        "timesignature": parse_timesignature(f"time signature: {text('timesignature')}"),
        "lyrics": tidy_lyrics(text("lyrics")) if include_lyrics else "",
        "language": language_code(text("language")),
    }
