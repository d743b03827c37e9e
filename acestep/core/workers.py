"""Runs one job in several worker processes, each on its own device.

The main process does none of the computation. It starts the workers, forwards their events and stops all of them when
one fails, so it is the only writer of the job's events. Workers are separate programs, not forks: each one is a job in
its own folder, as if someone had run ``python -m acestep run FOLDER``.

run folder/workers/<number>/    a worker's job.json, events.jsonl, log.txt and output.txt

Requests to stop or pause are made in the run folder, which every worker reads too (``Context.parent``). A worker stops
when the main process exits.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from acestep.core.config import Config
from acestep.core.errors import AceStepError, JobCancelled, WorkerCrashed, error_class
from acestep.core.events import (
    FINAL_EVENTS,
    Cancelled,
    Event,
    Failed,
    Finished,
    LogMessage,
    Paused,
    PhaseStarted,
    Progressed,
    Resumed,
    Started,
    Waiting,
)
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import COMMAND, PARENT_JOB, write_job
from acestep.core.paths import PROJECT
from acestep.core.standard_streams import utf8_environment

_POLL_S = 0.1
_STOP_TIMEOUT_S = 120.0  # time to save after a stop request; a worker that takes longer is killed


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """The job of one worker. ``environment`` is added to the environment variables of this process."""

    job: str
    config: Config
    environment: dict[str, str] = field(default_factory=dict)


def run_workers(
    jobs: Sequence[WorkerJob],
    folder: Path,
    on_event: Callable[[int, Event], None],
    *,
    command: Sequence[str] = COMMAND,
) -> list[dict[str, Any]]:
    """Run each job in a separate process and return their results, in order.

    Args:
        folder: the run folder of the main job.
        on_event: called with the number of a worker and each of its events except the last one. An exception that it
            raises stops the workers and is raised again here.

    Raises:
        JobCancelled: the workers were stopped; with the message of the first one.
        WorkerCrashed: a worker exited unexpectedly or failed because of a bug.
        AceStepError: the error of a worker that failed. All workers have exited by then.
    """
    workers: list[_Worker] = []
    try:
        for number, job in enumerate(jobs):
            workers.append(_Worker(job, folder, number, command, threads=_threads_per_worker(len(jobs))))
        while any(worker.running for worker in workers) and not any(worker.failed for worker in workers):
            _forward_events(workers, on_event)
            time.sleep(_POLL_S)
    finally:
        _stop(workers)
    _forward_events(workers, on_event)
    return _results(workers)


class MergedEvents:
    """Reports the events of several workers as one job: sums progress, and reports messages of all workers once."""

    def __init__(self, emit: Callable[[Event], None], total: int) -> None:
        self._emit, self._total = emit, total
        self._done: dict[int, int] = {}

    def __call__(self, number: int, event: Event) -> None:
        if isinstance(event, Progressed) and not event.phase:
            self._done[number] = event.done
            self._emit(replace(event, done=sum(self._done.values()), total=self._total))
        elif not isinstance(event, Started) and (number == 0 or not _is_common(event)):
            self._emit(event)


def _is_common(event: Event) -> bool:
    """Whether every worker reports this event."""
    if isinstance(event, LogMessage):
        return not event.warning
    return isinstance(event, PhaseStarted | Progressed | Waiting | Paused | Resumed)


class _Worker:
    """One process and its folder."""

    def __init__(self, job: WorkerJob, parent: Path, number: int, command: Sequence[str], *, threads: int) -> None:
        self.number, self.folder = number, JobFolder(parent).worker(number)
        write_job(self.folder.path, job.job, job.config)
        self.last: Event | None = None
        self.killed = False
        self._log = self.folder.events
        _, self._offset = self._log.read()  # skip the events of an earlier run
        environment = {
            "OMP_NUM_THREADS": str(threads),
            **utf8_environment(),
            "RANK": "0",  # unless the workers communicate
            "WORLD_SIZE": "1",
            "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            **job.environment,
            PARENT_JOB: str(parent.resolve()),
        }
        with self.folder.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, str(self.folder.path.resolve())],
                env=environment,
                stdin=subprocess.PIPE,  # closed by the system when this process exits, even if it is killed
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def failed(self) -> bool:
        return not self.running and self.process.returncode != 0

    def new_events(self) -> list[Event]:
        """The events since the last call, without the final event, which is kept in ``last``."""
        events, self._offset = self._log.read(self._offset)
        self.last = next((event for event in events if isinstance(event, FINAL_EVENTS)), self.last)
        return [event for event in events if not isinstance(event, FINAL_EVENTS)]


def _threads_per_worker(num_workers: int) -> int:
    """An equal part of the processors of this machine; OMP_NUM_THREADS, if set, takes precedence."""
    return max(1, (os.cpu_count() or 1) // num_workers)


def _forward_events(workers: Sequence[_Worker], on_event: Callable[[int, Event], None]) -> None:
    for worker in workers:
        for event in worker.new_events():
            on_event(worker.number, event)


def _stop(workers: Sequence[_Worker]) -> None:
    """Ask running workers to save and stop; kill those that exceed the timeout."""
    running = [worker for worker in workers if worker.running]
    for worker in running:
        worker.folder.request_stop()
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    for worker in running:
        try:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.killed = True
            worker.process.kill()
            worker.process.wait()
    for worker in workers:
        assert worker.process.stdin is not None
        worker.process.stdin.close()


def _results(workers: Sequence[_Worker]) -> list[dict[str, Any]]:
    lasts = [worker.last for worker in workers]
    failed = [last for last in lasts if isinstance(last, Failed)]
    for worker in workers:
        if worker.last is None and not worker.killed:
            hint = f"Its output is in {worker.folder.output_path}."
            raise WorkerCrashed(
                f"process {worker.number + 1} of {len(workers)} exited unexpectedly, "
                f"exit code {worker.process.returncode}",
                hint=" ".join([hint, *(last.hint for last in failed[:1])]),
            )
    if failed:
        raise _to_error(failed[0])
    for last in lasts:
        if not isinstance(last, Finished):
            raise JobCancelled(
                last.message if isinstance(last, Cancelled) else "a process did not respond and was killed"
            )
    return [last.result for last in lasts if isinstance(last, Finished)]


def _to_error(failed: Failed) -> AceStepError:
    """The error that a worker reported; ``WorkerCrashed`` for a bug."""
    kind = error_class(failed.error) or WorkerCrashed
    text = f"{failed.error}: {failed.message}" if failed.is_bug else failed.message
    error = kind(text, hint=failed.hint)
    error.subject = failed.subject
    return error
