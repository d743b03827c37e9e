"""One heavy job at a time on a graphics card, whichever of our programs does it.

The trainer and the captioner are programs of their own; both loading models onto one small card would end both. A job
that finds the card taken says by whom and waits. The user may let it go on beside the other one: a file ``share`` in
its run folder, made by the page's button or by hand.
"""

from __future__ import annotations

import getpass
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from acestep.core.errors import JobError, StorageError
from acestep.core.events import LogMessage, Waiting
from acestep.core.files import read_json, write_json
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import Context

_LOOK_S = 0.5


@contextmanager
def lock_device(device: str, what: str, context: Context) -> Iterator[None]:
    """Keep ``device`` ("cuda", "cuda:1", …) to this job while the block runs; for a processor there is nothing to keep.

    Args:
        what: names the work for whoever waits: "training", "captioning".

    Raises:
        JobCancelled: stopped by the user while it waited.
    """
    if device.partition(":")[0] == "cpu":
        yield
        return
    place = _place(device)
    lock = FileLock(place.with_suffix(".lock"))
    if not _taken(lock, device, place, context):
        yield
        return
    try:
        with suppress(StorageError):  # whoever waits is then not told for whom
            write_json(place, {"what": what, "folder": _name(context)})
        yield
    finally:
        lock.release()


def share_device(folder: Path) -> None:
    """Let the job of that run folder, which waits for the card, go on beside the other one."""
    JobFolder(folder).request_sharing()


def _taken(lock: FileLock, device: str, place: Path, context: Context) -> bool:
    """Wait for the lock. False when this job goes on without it."""
    JobFolder(context.folder).clear_sharing()  # of an earlier time
    told = False
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            pass
        except OSError as problem:  # a folder that cannot be written is no reason not to work
            context.emit(LogMessage(message=f"other jobs do not see that {device} is taken: {problem}", warning=True))
            return False
        else:
            if told:
                context.emit(LogMessage(message=f"{device} is free"))
            return True
        holder = _holder(place)
        if holder.get("folder") == _name(context):
            return False  # another process of the same job
        if not told:
            context.emit(_waiting(device, holder, context.whole or context.folder))
            told = True
        if context.requested("sharing"):
            context.emit(LogMessage(message=f"two jobs share {device}; its memory may not be enough", warning=True))
            return False
        context.stop_if_cancelled()
        time.sleep(_LOOK_S)


def _name(context: Context) -> str:
    return str((context.whole or context.folder).absolute())


def _holder(place: Path) -> dict[str, Any]:
    """What the job that has the card wrote about itself; empty if it has not yet."""
    try:
        told = read_json(place, error=JobError)
    except JobError:
        return {}
    return told if isinstance(told, dict) else {}


def _waiting(device: str, holder: dict[str, Any], folder: Path) -> Waiting:
    """Which job uses the device, and what the user can do."""
    what, where = str(holder.get("what", "a job")), str(holder.get("folder", "another program"))
    share = str(JobFolder(folder).share_path)
    message = (
        f"waiting for {device}, which {what} in {where} uses. The job starts when that has finished. If the memory is "
        f"sufficient for both, run it anyway: with the button on the page, or by creating an empty file "
        f"{json.dumps(share, ensure_ascii=False)}"
    )
    return Waiting(message=message, device=device, holder=what, holder_folder=where, share_file=share)


def _place(device: str) -> Path:
    """Where it stands who has the card: one file for a card and a user, in the system's folder for passing things."""
    kind, _, number = device.partition(":")
    index = int(number or 0)
    shown = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    card = shown[index] if kind == "cuda" and index < len(shown) else str(index)
    name = "".join(letter if letter.isalnum() else "-" for letter in f"acestep-{getpass.getuser()}-{kind}-{card}")
    return Path(tempfile.gettempdir()) / f"{name}.json"
