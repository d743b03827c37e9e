"""Download one file: resume broken connections, and verify the content before the file is renamed.

``huggingface_hub`` 2.4 deletes a partial file when a download fails (``_download_to_tmp_and_move``), so a file of
5 GB starts again after each interruption. Here the partial file stays beside its target as ``NAME.part``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import httpx2
from tenacity import RetryCallState, Retrying, retry_if_exception

from acestep.core import renames
from acestep.core.errors import DownloadError, JobCancelled
from acestep.core.files import sha256_of, storage_errors
from acestep.core.retry import sleep_unless_stopped
from acestep.models.hubs import RemoteFile, http_errors

RETRY_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between consecutive attempts without new bytes
TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
STOPPED = "the download was stopped; the next download resumes it"
_RETRYABLE_STATUS = {408, 416, 429, 500, 502, 503, 504}
_MAX_CHECKSUM_FAILURES = 2

Stop = Callable[[], bool]


def fetch(client: httpx2.Client, file: RemoteFile, target: Path, on_bytes: Callable[[int], None], stop: Stop) -> None:
    """Download ``file`` to ``target``. Resumes from the partial file ``NAME.part`` if there is one.

    Args:
        on_bytes: receives the number of bytes downloaded so far.

    Raises:
        DownloadError: no access, no answer after several attempts, more bytes than announced, or wrong content twice.
        JobCancelled: ``stop`` returned True; the partial file stays.
        DiskFull, NotWritable.
    """
    part = target.with_name(target.name + ".part")
    for _ in range(_MAX_CHECKSUM_FAILURES):
        with http_errors(file.path, file.url), storage_errors(target):
            part.parent.mkdir(parents=True, exist_ok=True)
            _stream_with_retries(client, file, part, on_bytes, stop)
        if is_verified(file, part):
            with storage_errors(target):
                renames.replace(part, target)
            return
        part.unlink()
    raise DownloadError(
        f"the checksum of {file.path} was wrong twice",
        hint="Try again later, or use the other source.",
    )


def is_verified(file: RemoteFile, path: Path) -> bool:
    """Whether ``path`` matches what the hub reports for ``file``: its size, and its checksum if there is one."""
    if size_of(path) != file.size or not path.is_file():
        return False
    if file.sha256:
        return sha256_of(path) == file.sha256
    if file.blob:  # git's object id, for the small files that are in the repository itself
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.blob
    return True


def size_of(path: Path) -> int:
    """Size of a file in bytes, 0 if it does not exist."""
    return path.stat().st_size if path.is_file() else 0


class _StallCounter:
    """Counts consecutive attempts without new bytes."""

    def __init__(self, part: Path) -> None:
        self._part, self._size, self.count = part, size_of(part), 0

    def update(self, _: RetryCallState) -> None:
        size = size_of(self._part)
        self.count = 1 if size > self._size else self.count + 1
        self._size = size

    def wait_s(self, _: RetryCallState) -> float:
        return RETRY_WAITS_S[min(self.count, len(RETRY_WAITS_S)) - 1]

    def give_up(self, _: RetryCallState) -> bool:
        return self.count > len(RETRY_WAITS_S)


def _stream_with_retries(
    client: httpx2.Client, file: RemoteFile, part: Path, on_bytes: Callable[[int], None], stop: Stop
) -> None:
    """Complete ``part``. Raises httpx2.HTTPError after a final error or too many attempts without progress."""
    stalls = _StallCounter(part)
    attempts = Retrying(
        retry=retry_if_exception(_is_temporary),
        after=stalls.update,
        wait=stalls.wait_s,
        stop=stalls.give_up,
        sleep=lambda seconds: sleep_unless_stopped(seconds, stop, STOPPED),
        reraise=True,
    )
    attempts(_stream, client, file, part, on_bytes, stop)


def _is_temporary(error: BaseException) -> bool:
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in _RETRYABLE_STATUS
    return isinstance(error, httpx2.HTTPError)


def _stream(client: httpx2.Client, file: RemoteFile, part: Path, on_bytes: Callable[[int], None], stop: Stop) -> None:
    """Append the missing bytes to ``part``. Raises httpx2.HTTPError when the connection or the server fails."""
    done = size_of(part)
    if done > file.size:
        part.unlink()
        done = 0
    if done == file.size and part.exists():
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    with client.stream("GET", file.url, headers=headers, follow_redirects=True, timeout=TIMEOUT) as response:
        response.raise_for_status()
        if done and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            done = 0  # the server ignores the range and sends the whole file
        with part.open("ab" if done else "wb") as output:
            for chunk in response.iter_raw():  # a chunk size would lose buffered bytes when the connection breaks
                if stop():
                    raise JobCancelled(STOPPED)
                done += len(chunk)
                if done > file.size:
                    break
                output.write(chunk)
                on_bytes(done)
    if done > file.size:
        part.unlink()
        raise DownloadError(
            f"{response.url.host} sent more than the announced {file.size:,} bytes of {file.path}",
            hint="Use the other source.",
        )
    if done < file.size:
        raise httpx2.RemoteProtocolError(f"the connection ended after {done:,} of {file.size:,} bytes of {file.path}")
