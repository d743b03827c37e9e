"""The two places that publish the models: what a repository holds there, with sizes and checksums.

Hugging Face is asked through ``huggingface_hub``; ModelScope over plain HTTP (its routes: DESIGN 6). Neither
fetches files: see ``acestep.models.fetch``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, get_token, hf_hub_url
from huggingface_hub.hf_api import RepoFile

from acestep.core.errors import DownloadError

PROBE_TIMEOUT_S = 3.0
LIST_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a repository. Its content is proved by ``sha256``, or by git's ``blob`` id if the file is small."""

    path: str
    url: str
    size: int
    sha256: str = ""
    blob: str = ""


class Hub(Protocol):
    """A place that publishes models. ``headers`` go along with every file that is asked for."""

    name: str
    endpoint: str
    headers: dict[str, str]

    def list_files(self, repo: str) -> list[RemoteFile]:
        """Every file of ``repo``. Raises DownloadError in words: unknown repository, no access, no answer."""


class HuggingFace:
    """huggingface.co, or the mirror named by HF_ENDPOINT. Without ``token`` the one of ``hf auth login`` is used."""

    name = "Hugging Face"

    def __init__(self, token: str | None = None) -> None:
        self.endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
        token = token or get_token()
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._api = HfApi(endpoint=self.endpoint, token=token or False)

    def list_files(self, repo: str) -> list[RemoteFile]:
        with in_words(repo, self.endpoint):
            commit = self._api.model_info(repo, revision="main", timeout=LIST_TIMEOUT_S).sha
            entries = list(self._api.list_repo_tree(repo, recursive=True, revision=commit))
        return [
            RemoteFile(
                path=entry.path,
                url=hf_hub_url(repo, entry.path, revision=commit, endpoint=self.endpoint),
                size=entry.size,
                sha256=entry.lfs.sha256 if entry.lfs else "",
                blob="" if entry.lfs else entry.blob_id,
            )
            for entry in entries
            if isinstance(entry, RepoFile)
        ]


class ModelScope:
    """modelscope.cn, or the server named by MODELSCOPE_ENDPOINT."""

    name = "ModelScope"

    def __init__(self) -> None:
        self.endpoint = os.environ.get("MODELSCOPE_ENDPOINT", "").rstrip("/") or "https://www.modelscope.cn"
        self.headers: dict[str, str] = {}

    def list_files(self, repo: str) -> list[RemoteFile]:
        base = f"{self.endpoint}/api/v1/models/{repo}/repo"
        with in_words(repo, self.endpoint):
            answer = httpx2.get(
                f"{base}/files",
                params={"Revision": "master", "Recursive": "true"},
                timeout=LIST_TIMEOUT_S,
                follow_redirects=True,
            )
            answer.raise_for_status()
            try:
                files = [entry for entry in answer.json()["Data"]["Files"] if entry.get("Type") != "tree"]
                return [
                    RemoteFile(
                        path=entry["Path"],
                        url=str(httpx2.URL(base, params={"Revision": "master", "FilePath": entry["Path"]})),
                        size=int(entry["Size"]),
                        sha256=entry["Sha256"],
                    )
                    for entry in files
                ]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise DownloadError(f"{self.endpoint} gave no list of files for {repo}") from None


def reachable(hub: Hub) -> bool:
    """Whether the hub answers within three seconds."""
    try:
        return httpx2.head(hub.endpoint, timeout=PROBE_TIMEOUT_S).status_code < 500
    except httpx2.HTTPError:
        return False


def is_safe(path: str) -> bool:
    """Whether a path from a hub stays inside the folder that it is written to, on every system."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not (path.startswith("/") or ".." in parts or "\\" in path or ":" in path)


@contextmanager
def in_words(what: str, endpoint: str) -> Iterator[None]:
    """Turn errors of HTTP into a DownloadError that names ``what`` was asked for and the host."""
    host = urlsplit(endpoint).netloc
    try:
        yield
    except httpx2.TimeoutException as problem:
        raise DownloadError(f"{host} did not answer in time", hint="Try again later.") from problem
    except httpx2.HTTPError as problem:
        response: httpx2.Response | None = getattr(problem, "response", None)
        if response is None:
            reason = f"{host} cannot be reached ({problem or type(problem).__name__})"
            raise DownloadError(reason, hint="Check the internet connection and the proxy settings.") from problem
        raise _refused(what, host, response.status_code) from problem


def _refused(what: str, host: str, status: int) -> DownloadError:
    if status in (401, 403):
        return DownloadError(
            f"{host} gives no access to {what} (HTTP {status})",
            hint="Set HF_TOKEN to a Hugging Face token that may read it, or try the other source.",
        )
    if status == 404:
        return DownloadError(f"{host} has no {what} (HTTP 404)")
    if status == 429:
        return DownloadError(f"{host} asks to slow down (HTTP 429)", hint="Try again in some minutes.")
    return DownloadError(f"{host} answered HTTP {status} for {what}", hint="Try again later.")
