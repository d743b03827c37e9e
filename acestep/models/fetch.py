"""Fetch one file so that it is whole or not there: cut connections are taken up again, content is proved.

``huggingface_hub`` 2.4 deletes what has come when a download breaks off (``_download_to_tmp_and_move``), so that a
file of five gigabytes would begin anew after each stop; here it is kept beside its place as ``NAME.part``.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import httpx2

from acestep.core.errors import DownloadError, JobCancelled
from acestep.core.files import sha256_of, storage_errors
from acestep.models.hubs import RemoteFile, in_words

RETRY_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # between attempts that brought nothing
TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
_WORTH_A_RETRY = {408, 416, 429, 500, 502, 503, 504}

Stop = Callable[[], bool]


def fetch(client: httpx2.Client, file: RemoteFile, target: Path, on_bytes: Callable[[int], None], stop: Stop) -> None:
    """Bring ``file`` to ``target``; bytes of an earlier attempt are used. ``on_bytes`` is told how many are there.

    Raises:
        DownloadError: no access, no answer after several attempts, or a wrong content twice.
        JobCancelled: ``stop`` answered True; what has come so far is kept.
        DiskFull, NotWritable.
    """
    part = target.with_name(target.name + ".part")
    failures = wrong = 0
    while True:
        before = size_of(part)
        try:
            with storage_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                _stream(client, file, part, on_bytes, stop)
        except httpx2.HTTPError as problem:
            failures = 1 if size_of(part) > before else failures + 1
            _give_up_or_wait(file, problem, failures, stop)
            continue
        if proved(file, part):
            with storage_errors(target):
                part.replace(target)
            return
        part.unlink()
        wrong += 1
        if wrong == 2:
            raise DownloadError(
                f"{file.path} arrived with a wrong content twice (its checksum differs)",
                hint="Try again later, or from the other source.",
            )


def proved(file: RemoteFile, path: Path) -> bool:
    """Whether ``path`` holds exactly what the hub says of ``file``: its size, and its checksum where there is one."""
    if size_of(path) != file.size or not path.is_file():
        return False
    if file.sha256:
        return sha256_of(path) == file.sha256
    if file.blob:  # git's name of a content, for the small files that are in the repository itself
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == file.blob
    return True


def size_of(path: Path) -> int:
    """Bytes of a file, 0 when it is not there."""
    return path.stat().st_size if path.is_file() else 0


def _stream(client: httpx2.Client, file: RemoteFile, part: Path, on_bytes: Callable[[int], None], stop: Stop) -> None:
    """Append what is missing to ``part``. Raises httpx2.HTTPError when the connection or the server fails."""
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
            done = 0  # the server sends the whole file again
        with part.open("ab" if done else "wb") as output:
            for chunk in response.iter_raw():  # as it comes: a chunk size would lose the rest when the line breaks
                if stop():
                    raise JobCancelled("the download was stopped; the next one goes on from here")
                done += len(chunk)
                if done > file.size:
                    raise httpx2.RemoteProtocolError(f"more than {file.size:,} bytes came for {file.path}")
                output.write(chunk)
                on_bytes(done)
    if done < file.size:
        raise httpx2.RemoteProtocolError(f"the connection ended after {done:,} of {file.size:,} bytes of {file.path}")


def _give_up_or_wait(file: RemoteFile, problem: httpx2.HTTPError, failures: int, stop: Stop) -> None:
    refused = isinstance(problem, httpx2.HTTPStatusError) and problem.response.status_code not in _WORTH_A_RETRY
    if refused or failures > len(RETRY_WAITS_S):
        with in_words(file.path, file.url):
            raise problem
    end = time.monotonic() + RETRY_WAITS_S[failures - 1]
    while time.monotonic() < end:
        if stop():
            raise JobCancelled("the download was stopped; the next one goes on from here")
        time.sleep(0.1)
