"""The two hubs that publish the models: list the files of a repository with sizes and checksums.

Hugging Face is accessed through ``huggingface_hub``, ModelScope through its HTTP API. Files are downloaded by
``acestep.models.fetch``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.hf_api import RepoFile

from acestep.core.errors import DownloadError

PROBE_TIMEOUT_S = 3.0
LIST_TIMEOUT_S = 20.0
_MAX_FILE_BYTES = 2**40  # the largest published file has about 20 GB


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository. ``sha256`` verifies its content, or git's ``blob`` id if the file is small."""

    path: str
    url: str
    size: int
    sha256: str = ""
    blob: str = ""


class Hub(Protocol):
    """A site that publishes models. ``headers`` are sent with every file request."""

    name: str
    endpoint: str
    headers: dict[str, str]

    def list_files(self, repo: str) -> list[RemoteFile]:
        """Every file of ``repo``. Raises DownloadError: unknown repository, no access, no response."""


class HuggingFace:
    """huggingface.co, or the mirror in HF_ENDPOINT. ``token`` defaults to the one saved by ``hf auth login``."""

    name = "Hugging Face"

    def __init__(self, token: str | None = None) -> None:
        self.endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
        token = token or get_token()
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._api = HfApi(endpoint=self.endpoint, token=token or False)

    def list_files(self, repo: str) -> list[RemoteFile]:
        with http_errors(repo, self.endpoint), _list_errors(repo, self.endpoint):
            commit = self._api.model_info(repo, revision="main", timeout=LIST_TIMEOUT_S).sha
            return [
                _remote_file(
                    path=entry.path,
                    url=hf_hub_url(repo, entry.path, revision=commit, endpoint=self.endpoint),
                    size=entry.size,
                    sha256=entry.lfs.sha256 if entry.lfs else "",
                    blob="" if entry.lfs else entry.blob_id,
                )
                for entry in self._api.list_repo_tree(repo, recursive=True, revision=commit)
                if isinstance(entry, RepoFile)
            ]


class ModelScope:
    """modelscope.cn, or the server in MODELSCOPE_ENDPOINT."""

    name = "ModelScope"

    def __init__(self) -> None:
        self.endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "").rstrip("/") or "https://www.modelscope.cn"
        self.headers: dict[str, str] = {}

    def list_files(self, repo: str) -> list[RemoteFile]:
        base = f"{self.endpoint}/api/v1/models/{repo}/repo"
        with http_errors(repo, self.endpoint), _list_errors(repo, self.endpoint):
            response = httpx2.get(
                f"{base}/files",
                params={"Revision": "master", "Recursive": "true"},
                timeout=LIST_TIMEOUT_S,
                follow_redirects=True,
            )
            response.raise_for_status()
            return [
                _remote_file(
                    path=entry["Path"],
                    url=str(httpx2.URL(base, params={"Revision": "master", "FilePath": entry["Path"]})),
                    size=entry["Size"],
                    sha256=entry["Sha256"],
                )
                for entry in response.json()["Data"]["Files"]
                if entry.get("Type") != "tree"
            ]


def _remote_file(path: Any, url: str, size: Any, sha256: Any, blob: Any = "") -> RemoteFile:
    """A file of a list. Raises TypeError or ValueError for values that no hub returns."""
    if not all(isinstance(text, str) for text in (path, sha256, blob)):
        raise TypeError(f"{path!r}: the name or a checksum is not a string")
    if not isinstance(size, int) or not 0 <= size <= _MAX_FILE_BYTES:
        raise ValueError(f"{path!r} has {size!r} bytes")
    return RemoteFile(path=path, url=url, size=size, sha256=sha256, blob=blob)


@contextmanager
def _list_errors(repo: str, endpoint: str) -> Iterator[None]:
    """Convert the errors that a malformed file list causes to DownloadError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        host = urlsplit(endpoint).netloc
        raise DownloadError(f"{host} returned no valid file list for {repo}: {error!r}"[:500]) from None


def reachable(hub: Hub) -> bool:
    """Whether the hub answers within three seconds."""
    try:
        return httpx2.head(hub.endpoint, timeout=PROBE_TIMEOUT_S).status_code < 500
    except httpx2.HTTPError:
        return False


@contextmanager
def http_errors(requested: str, endpoint: str) -> Iterator[None]:
    """Convert HTTP errors to DownloadError with the host and what was ``requested``."""
    host = urlsplit(endpoint).netloc
    try:
        yield
    except httpx2.TimeoutException as error:
        raise DownloadError(f"{host} did not answer in time", hint="Try again later.") from error
    except httpx2.HTTPError as error:
        response: httpx2.Response | None = getattr(error, "response", None)
        if response is None:
            reason = f"{host} cannot be reached ({error or type(error).__name__})"
            raise DownloadError(reason, hint="Check the internet connection and the proxy settings.") from error
        raise _status_error(requested, host, response.status_code) from error


def _status_error(requested: str, host: str, status: int) -> DownloadError:
    if status in (401, 403):
        return DownloadError(
            f"{host} denies access to {requested} (HTTP {status})",
            hint="Set HF_TOKEN to a Hugging Face token with read access, or use the other source.",
        )
    if status == 404:
        return DownloadError(f"{host} has no {requested} (HTTP 404)")
    if status == 429:
        return DownloadError(f"{host} is rate-limiting (HTTP 429)", hint="Try again in a few minutes.")
    return DownloadError(f"{host} returned HTTP {status} for {requested}", hint="Try again later.")
