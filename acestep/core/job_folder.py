"""The folder of a job. No other module spells out the names of its files.

job.json       the name and the configuration of the job
events.jsonl   the events of the job (core.event_log)
cancel         exists if the user requested a stop
pause          exists while the job is paused
share          exists if the user requested that the job runs although another job uses its device
lock           held by the process that uses this folder
log.txt        the log of the job
output.txt     stdout and stderr of a job in a separate process
workers/       the folders of the worker processes, if there are several (core.workers)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from acestep.core.errors import JobBusy, JobError
from acestep.core.event_log import EventLog
from acestep.core.events import FINAL_EVENTS, Cancelled, Event, Failed, Finished
from acestep.core.files import read_versioned, write_versioned
from acestep.core.untrusted import exists, is_file, is_folder

State = Literal["running", "paused", "stopping", "done", "stopped", "failed", "interrupted"]
ACTIVE_STATES: tuple[State, ...] = ("running", "paused", "stopping")
Request = Literal["stop", "pause", "sharing"]
WORKERS = "workers"

_JOB, _EVENTS, _LOG, _OUTPUT, _LOCK = "job.json", "events.jsonl", "log.txt", "output.txt", "lock"
_STOP, _PAUSE, _SHARE = "cancel", "pause", "share"
_LOCK_TIMEOUT_S = 0.2  # ``locked`` of another process holds the lock for a moment
NAMES = frozenset({_JOB, _EVENTS, _LOG, _OUTPUT, _LOCK, _STOP, _PAUSE, _SHARE, WORKERS})


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Reads and writes the files of the job in the folder ``path``."""

    path: Path

    @property
    def exists(self) -> bool:
        """Whether the folder contains a job."""
        return is_file(self.path / _JOB)

    @property
    def events(self) -> EventLog:
        return EventLog(self.path / _EVENTS)

    @property
    def log_path(self) -> Path:
        return self.path / _LOG

    @property
    def output_path(self) -> Path:
        return self.path / _OUTPUT

    @property
    def share_path(self) -> Path:
        return self.path / _SHARE

    def worker(self, number: int) -> JobFolder:
        """The folder of a worker process of this job."""
        return JobFolder(self.path / WORKERS / str(number))

    def write_job(self, job: str, config: dict[str, Any]) -> None:
        """Write the name and the configuration of the job. Raises StorageError."""
        write_versioned(self.path / _JOB, "job", 1, {"job": job, "config": config})

    def read_job(self) -> tuple[str, dict[str, Any]]:
        """The name and the unvalidated configuration of the job. Raises JobError if there is none."""
        data = read_versioned(self.path / _JOB, "job", 1, error=JobError)
        config = data.get("config", {})
        return str(data.get("job")), config if isinstance(config, dict) else {}

    def request_stop(self) -> None:
        """Request that the job saves and stops after its current sample or step."""
        (self.path / _STOP).touch()

    def request_pause(self) -> None:
        """Pause the job before its next sample or step. A stop ends the pause."""
        (self.path / _PAUSE).touch()

    def request_resume(self) -> None:
        """Resume a paused job."""
        (self.path / _PAUSE).unlink(missing_ok=True)

    def request_sharing(self) -> None:
        """Let a job that waits for a device run at the same time as the job that uses it."""
        self.share_path.touch()

    def clear_sharing(self) -> None:
        self.share_path.unlink(missing_ok=True)

    def clear_requests(self) -> None:
        """Clear the requests to stop or pause an earlier job in this folder."""
        (self.path / _STOP).unlink(missing_ok=True)
        self.request_resume()

    @property
    def stop_requested(self) -> bool:
        return exists(self.path / _STOP)

    @property
    def pause_requested(self) -> bool:
        return exists(self.path / _PAUSE)

    @property
    def sharing_requested(self) -> bool:
        return exists(self.share_path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Prevent other processes from using this folder while the block runs. Raises JobBusy."""
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=_LOCK_TIMEOUT_S, poll_interval=0.02)
        except Timeout:
            raise JobBusy(
                f"another process is using {self.path}", hint="Wait until it has finished, or stop it."
            ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def locked(self) -> bool:
        """Whether a process is using this folder."""
        if not exists(self.path / _LOCK):
            return False
        try:
            with FileLock(self.path / _LOCK).acquire(timeout=0):
                return False
        except Timeout:
            return True

    @property
    def state(self) -> State:
        """The state of the job, from its events and its lock."""
        events, _ = self.events.read()
        last = events[-1] if events else None
        return self.state_after(last, active=not isinstance(last, FINAL_EVENTS) and self.locked)

    def state_after(self, last: Event | None, *, active: bool) -> State:
        """The state of a job whose newest event is ``last``; ``active`` if its process still runs."""
        if active:
            if self.stop_requested:
                return "stopping"
            return "paused" if self.pause_requested else "running"
        if isinstance(last, Finished):
            return "done"
        if isinstance(last, Cancelled):
            return "stopped"
        return "failed" if isinstance(last, Failed) else "interrupted"


def job_folders(root: Path) -> list[Path]:
    """Every job folder at or below ``root``, except those of workers."""
    found = root.rglob(_JOB) if is_folder(root) else []
    return sorted({file.parent for file in found if file.parts[-3] != WORKERS})
