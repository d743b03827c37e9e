"""A lock per device, so that only one job at a time uses a GPU.

The trainer and the captioner are separate programs, and a small GPU does not have enough memory for the models of both.
A job that finds its device locked reports which job uses it, and waits. The user can run it anyway: with the button on
the page, or by creating the file ``share`` in its run folder.
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

_POLL_S = 0.5


@contextmanager
def lock_device(device: str, activity: str, context: Context) -> Iterator[None]:
    """Lock ``device`` ("cuda", "cuda:1", …) for this job while the block runs. The CPU is never locked.

    Args:
        activity: what the job does, shown to jobs that wait: "training", "captioning".

    Raises:
        JobCancelled: the user stopped the job while it waited.
    """
    if device.partition(":")[0] == "cpu":
        yield
        return
    holder_file = _holder_file(device)
    lock = FileLock(holder_file.with_suffix(".lock"))
    if not _acquire(lock, device, holder_file, context):
        yield
        return
    try:
        with suppress(StorageError):  # jobs that wait then cannot name this one
            write_json(holder_file, {"what": activity, "folder": _job_id(context)})
        yield
    finally:
        lock.release()


def share_device(folder: Path) -> None:
    """Let the job in ``folder``, which waits for a device, run at the same time as the job that uses it."""
    JobFolder(folder).request_sharing()


def _acquire(lock: FileLock, device: str, holder_file: Path, context: Context) -> bool:
    """Wait for the lock. False if the job runs without it."""
    JobFolder(context.folder).clear_sharing()  # a request of an earlier run
    waiting = False
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            pass
        except OSError as problem:  # an unwritable folder must not prevent the job
            message = f"{device} could not be locked, so other jobs may use it at the same time: {problem}"
            context.emit(LogMessage(message=message, warning=True))
            return False
        else:
            if waiting:
                context.emit(LogMessage(message=f"{device} is free"))
            return True
        holder = _read_holder(holder_file)
        if holder.get("folder") == _job_id(context):
            return False  # another process of the same job
        if not waiting:
            context.emit(_waiting_event(device, holder, context.parent or context.folder))
            waiting = True
        if context.requested("sharing"):
            context.emit(LogMessage(message=f"two jobs share {device}; its memory may not be enough", warning=True))
            return False
        context.stop_if_cancelled()
        time.sleep(_POLL_S)


def _job_id(context: Context) -> str:
    """The same for all processes of a job: its absolute run folder."""
    return str((context.parent or context.folder).absolute())


def _read_holder(holder_file: Path) -> dict[str, Any]:
    """The description that the job which uses the device wrote; empty if there is none yet."""
    try:
        holder = read_json(holder_file, error=JobError)
    except JobError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _waiting_event(device: str, holder: dict[str, Any], folder: Path) -> Waiting:
    """Which job uses the device, and what the user can do."""
    what, where = str(holder.get("what", "a job")), str(holder.get("folder", "another program"))
    share = str(JobFolder(folder).share_path)
    message = (
        f"waiting for {device}, which {what} in {where} uses. The job starts when that has finished. If the memory is "
        f"sufficient for both, run it anyway: with the button on the page, or by creating an empty file "
        f"{json.dumps(share, ensure_ascii=False)}"
    )
    return Waiting(message=message, device=device, holder=what, holder_folder=where, share_file=share)


def _holder_file(device: str) -> Path:
    """The file that names the job which uses ``device``: one per user and physical GPU, in the temporary folder.

    CUDA_VISIBLE_DEVICES renumbers the GPUs of a process, so the index is mapped back.
    """
    kind, _, number = device.partition(":")
    index = int(number or 0)
    visible = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    physical = visible[index] if kind == "cuda" and index < len(visible) else str(index)
    name = "".join(letter if letter.isalnum() else "-" for letter in f"acestep-{_user()}-{kind}-{physical}")
    return Path(tempfile.gettempdir()) / f"{name}.json"


def _user() -> str:
    """The name of the user; "user" where the system knows none, as in some containers."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # the last two before Python 3.13; Windows has no ``pwd``
        return "user"
