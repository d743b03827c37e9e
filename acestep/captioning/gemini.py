"""Client for Google Gemini: caption, lyrics and metadata in one request, with structured output (JSON schema)."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
from loguru import logger

from acestep.captioning import prompts
from acestep.captioning.api_keys import find_key
from acestep.captioning.backends import CAPTIONERS
from acestep.captioning.configs import CaptionJob
from acestep.captioning.folder_batch import for_each
from acestep.captioning.lyrics import format_lyrics
from acestep.captioning.online import OnlineCaptioner, retry_policy_of
from acestep.captioning.parse import parse_key, parse_timesignature
from acestep.captioning.schema import Report
from acestep.captioning.service_client import (
    RetryableError,
    RetryPolicy,
    ServiceClient,
    json_object,
    upload_size,
)
from acestep.captioning.sidecar import write_caption, write_lyrics
from acestep.core.errors import AceStepError, ServiceError
from acestep.core.files import write_json
from acestep.dataset.languages import language_code

SERVICE = CAPTIONERS["gemini"]
URL = SERVICE.url
INLINE_BYTES = 14 * 2**20  # a request may have 20 MB; base64 needs 4 bytes for 3
_POLLS, _POLL_S = 150, 2.0
_TYPES = {".mp3": "audio/mpeg", ".wav": "audio/wav", ".flac": "audio/flac", ".opus": "audio/ogg", ".m4a": "audio/mp4"}
_BLOCKED = ("SAFETY", "RECITATION", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "LANGUAGE")


class GeminiCaptioner:
    """Describes and transcribes audio files. Large files use the Files API and are deleted there afterwards."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        model: str = SERVICE.model,
        base_url: str | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        """``api_key`` defaults to GEMINI_API_KEY or GOOGLE_API_KEY. Raises ServiceRefused without a key."""
        self.model, self.retry_policy = model, retry_policy or RetryPolicy()
        self._url, self._key = (base_url or URL).rstrip("/"), find_key(SERVICE, api_key)

    def analyze(self, path: str | Path, include_lyrics: bool = True, language: str | None = None) -> dict[str, Any]:
        """Return ``caption``, ``genre``, ``bpm``, ``keyscale``, ``timesignature``, ``lyrics`` and ``language``.

        Unknown values are empty, an unknown ``bpm`` is None. ``lyrics`` is ``[Instrumental]`` for a song without
        vocals, and empty without ``include_lyrics``.

        Raises:
            AudioError: the file cannot be uploaded.
            ServiceError: no usable response.
            ServiceRefused: wrong key or no credit.
        """
        path = Path(path)
        size = upload_size(path, SERVICE.service, SERVICE.max_upload_bytes)
        headers = {"x-goog-api-key": self._key}
        with ServiceClient(SERVICE.service, self._url, headers, self._key, self.retry_policy) as client:
            if size <= INLINE_BYTES:
                audio = {"mimeType": _mime(path), "data": base64.b64encode(path.read_bytes()).decode()}
                return self._generate(client, {"inlineData": audio}, include_lyrics, language)
            with self._uploaded(client, path, size) as uri:
                audio = {"mimeType": _mime(path), "fileUri": uri}
                return self._generate(client, {"fileData": audio}, include_lyrics, language)

    def analyze_directory(
        self, directory: str | Path, output_dir: str | Path | None = None, include_lyrics: bool = True
    ) -> list[dict[str, Any]]:
        """Analyze each song in a folder and write its ``.caption.txt`` and ``.lyrics.txt``.

        Args:
            output_dir: also write the results as JSON files into this folder.

        Returns:
            One dictionary per song: ``filename``, ``path``, and the result of ``analyze``, or ``error`` and ``hint``.
        """

        def label_song(path: Path) -> dict[str, Any]:
            result = self.analyze(path, include_lyrics)
            write_caption(path, result["caption"])
            write_lyrics(path, result["lyrics"])
            if output_dir is not None:
                named = {**result, "filename": path.name, "path": str(path.absolute())}
                write_json(Path(output_dir).expanduser() / f"{path.stem}.json", named)
            return result

        return for_each(directory, label_song)

    def _generate(
        self, client: ServiceClient, audio: dict[str, Any], include_lyrics: bool, language: str | None
    ) -> dict[str, Any]:
        prompt = prompts.GEMINI + (prompts.GEMINI_LYRICS if include_lyrics else "")
        if language:
            prompt += f"\nThe lyrics are in {language}."
        body = {
            "contents": [{"role": "user", "parts": [audio, {"text": prompt}]}],
            "generationConfig": {"responseMimeType": "application/json", "responseSchema": _schema(include_lyrics)},
        }

        def send(http: httpx2.Client) -> httpx2.Response:
            return http.post(f"{self._url}/v1beta/models/{self.model}:generateContent", json=body)

        return client.request(send, lambda response: _read(response, include_lyrics))

    @contextmanager
    def _uploaded(self, client: ServiceClient, path: Path, size: int) -> Iterator[str]:
        """Upload the file, yield its URI, and delete it afterwards."""
        file = self._upload(client, path, size)
        name = str(file.get("name"))
        try:
            for _ in range(_POLLS):
                if file.get("state") == "ACTIVE":
                    break
                if file.get("state") == "FAILED":
                    raise ServiceError(f"{SERVICE.service} cannot read {path.name}", hint="Convert it to MP3.")
                self.retry_policy.sleep(_POLL_S)
                file = client.request(lambda http: http.get(f"{self._url}/v1beta/{name}"), json_object)
            else:
                raise ServiceError(f"{SERVICE.service} did not finish processing {path.name}", hint="Try again later.")
            yield str(file.get("uri"))
        finally:
            self._delete(client, name)

    def _upload(self, client: ServiceClient, path: Path, size: int) -> dict[str, Any]:
        """Upload in one request with the resumable protocol of the Files API."""
        start = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(size),
            "X-Goog-Upload-Header-Content-Type": _mime(path),
        }

        def send(http: httpx2.Client) -> httpx2.Response:
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

        def read(response: httpx2.Response) -> dict[str, Any]:
            file = json_object(response).get("file")
            if not isinstance(file, dict) or not str(file.get("name", "")).startswith("files/"):
                raise RetryableError("did not accept the upload")
            return file

        return client.request(send, read)

    def _delete(self, client: ServiceClient, name: str) -> None:
        """Delete an upload, which Google would keep for two days. A failure is only logged."""
        try:
            client.request(lambda http: http.delete(f"{self._url}/v1beta/{name}"), lambda response: None)
        except AceStepError as error:
            logger.warning("{} was not deleted from {}: {}", name, SERVICE.service, error)


def backend(config: CaptionJob, report: Report) -> OnlineCaptioner:
    """The captioner or transcriber of a job. Raises ServiceRefused without a key."""
    client = GeminiCaptioner(
        model=SERVICE.model_in(config), base_url=SERVICE.url_in(config), retry_policy=retry_policy_of(config)
    )
    return OnlineCaptioner(client, config.language)


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


def _read(response: httpx2.Response, include_lyrics: bool) -> dict[str, Any]:
    """Parse and check the response. Raises RetryableError, ServiceError."""
    answer = json_object(response)
    reason = (answer.get("promptFeedback") or {}).get("blockReason")
    candidate = (answer.get("candidates") or [{}])[0]
    reason = reason or (candidate.get("finishReason") if candidate.get("finishReason") in _BLOCKED else None)
    if reason:
        raise ServiceError(
            f"{SERVICE.service} rejects this song: {reason}", hint="Use another captioner for this song."
        )
    parts = (candidate.get("content") or {}).get("parts") or []
    text = "".join(str(part.get("text", "")) for part in parts if not part.get("thought"))
    text = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    if not text:
        raise RetryableError("returned an empty response")
    try:
        data = json.loads(text)
    except json.JSONDecodeError:
        raise RetryableError("returned a response that is not JSON") from None
    data = data[0] if isinstance(data, list) and data else data
    if not isinstance(data, dict) or not str(data.get("caption") or "").strip():
        raise RetryableError("returned no caption")
    return _validated(data, include_lyrics)


def _validated(data: dict[str, Any], include_lyrics: bool) -> dict[str, Any]:
    """Keep only valid values: a known key, a tempo from 30 to 300 BPM, a known language."""

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
        "lyrics": format_lyrics(text("lyrics")) if include_lyrics else "",
        "language": language_code(text("language")),
    }
