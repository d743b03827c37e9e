"""A job shared by several processes of this program, each with a device of its own.

The process that was asked for the job does none of the work. It starts the workers, hears what they tell, and sees
to it that none of them outlives the others, so it alone writes the job's events. Nothing is forked: each worker is a
job in a folder of its own, as if someone had typed ``python -m acestep run FOLDER``.

run folder/workers/<number>/    a worker's job.json, events.jsonl, log.txt and output.txt

Wishes to stop or wait are made in the run folder, where each worker looks too (``Context.whole``). A worker whose
starter is gone stops by itself.
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
    Progressed,
    Resumed,
    Started,
    Waiting,
)
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import COMMAND, WHOLE, write_job
from acestep.core.paths import PROJECT

_LOOK_S = 0.1
_GRACE_S = 120.0  # to save and end after another worker has failed; what still runs then hangs


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """What one worker does, and what it finds in its environment beside ours."""

    job: str
    config: Config
    environment: dict[str, str] = field(default_factory=dict)


def run_workers(
    shares: Sequence[WorkerJob],
    folder: Path,
    on_event: Callable[[int, Event], None],
    *,
    command: Sequence[str] = COMMAND,
) -> list[dict[str, Any]]:
    """Do each share in a process of its own; gives their results, in order.

    Args:
        folder: the run folder of the whole job.
        on_event: told the number of a worker and what it tells, but not its last event. What it raises ends the
            workers, as a stop would, and is raised here.

    Raises:
        JobCancelled: the workers were stopped; with what the first of them said.
        WorkerCrashed: one ended without a word, or by a fault of ours.
        AceStepError: what a worker failed with. All others have ended by then.
    """
    workers: list[_Worker] = []
    try:
        for number, share in enumerate(shares):
            workers.append(_Worker(share, folder, number, command, threads=_threads(len(shares))))
        while any(worker.running for worker in workers) and not any(worker.failed for worker in workers):
            _pass_on(workers, on_event)
            time.sleep(_LOOK_S)
    finally:
        _end(workers)
    _pass_on(workers, on_event)
    return _results(workers)


class MergedEvents:
    """Tells what workers tell as one job would: their counts added up, what all of them say once."""

    def __init__(self, emit: Callable[[Event], None], total: int) -> None:
        self._emit, self._total = emit, total
        self._done: dict[int, int] = {}

    def __call__(self, number: int, event: Event) -> None:
        if isinstance(event, Progressed):
            self._done[number] = event.done
            self._emit(replace(event, done=sum(self._done.values()), total=self._total))
        elif not isinstance(event, Started) and (number == 0 or not _is_plain(event)):
            self._emit(event)


def _is_plain(event: Event) -> bool:
    return isinstance(event, Waiting | Paused | Resumed) or (isinstance(event, LogMessage) and not event.warning)


class _Worker:
    """One process and its folder."""

    def __init__(self, share: WorkerJob, whole: Path, number: int, command: Sequence[str], *, threads: int) -> None:
        self.number, self.folder = number, JobFolder(whole).worker(number)
        write_job(self.folder.path, share.job, share.config)
        self.last: Event | None = None
        self.killed = False
        self._log = self.folder.events
        _, self._offset = self._log.read()  # those are of an earlier run
        environment = {
            "OMP_NUM_THREADS": str(threads),
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
            **share.environment,
            WHOLE: str(whole.resolve()),
        }
        with self.folder.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, str(self.folder.path.resolve())],
                env=environment,
                stdin=subprocess.PIPE,  # closes when this process ends, however it does
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def failed(self) -> bool:
        return not self.running and self.process.returncode != 0

    def news(self) -> list[Event]:
        """What it told since it was last asked, but for its last event, which is kept."""
        events, self._offset = self._log.read(self._offset)
        self.last = next((event for event in events if isinstance(event, FINAL_EVENTS)), self.last)
        return [event for event in events if not isinstance(event, FINAL_EVENTS)]


def _threads(num_workers: int) -> int:
    """How many each may use of this machine's processors, unless OMP_NUM_THREADS says it."""
    return max(1, (os.cpu_count() or 1) // num_workers)


def _pass_on(workers: Sequence[_Worker], on_event: Callable[[int, Event], None]) -> None:
    for worker in workers:
        for event in worker.news():
            on_event(worker.number, event)


def _end(workers: Sequence[_Worker]) -> None:
    """Ask those that still run to save and stop; whoever hangs is killed."""
    running = [worker for worker in workers if worker.running]
    for worker in running:
        worker.folder.request_stop()
    deadline = time.monotonic() + _GRACE_S
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
            hint = f"What it wrote is in {worker.folder.output_path}."
            raise WorkerCrashed(
                f"process {worker.number + 1} of {len(workers)} ended without a word, "
                f"exit code {worker.process.returncode}",
                hint=" ".join([hint, *(last.hint for last in failed[:1])]),
            )
    if failed:
        raise _as_raised(failed[0])
    for last in lasts:
        if not isinstance(last, Finished):
            raise JobCancelled(last.message if isinstance(last, Cancelled) else "a process hung and was ended")
    return [last.result for last in lasts if isinstance(last, Finished)]


def _as_raised(failed: Failed) -> AceStepError:
    """The error that a worker told; ``WorkerCrashed`` for a fault of ours."""
    kind = error_class(failed.error) or WorkerCrashed
    text = f"{failed.error}: {failed.message}" if failed.is_bug else failed.message
    return kind(text, hint=failed.hint)
