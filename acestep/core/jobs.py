"""Defines, registers and runs jobs.

A job is a function ``run(config, context) -> result``. It emits events, checks between steps whether it should stop,
and returns JSON data. It runs in the calling thread (command line), in a thread of the app, or in a separate process,
and behaves the same in each. ``core.job_folder`` describes the files of a job.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loguru import logger

from acestep.core.config import Config, parse
from acestep.core.errors import (
    AceStepError,
    JobCancelled,
    JobError,
    OutOfMemory,
    StorageError,
    WorkerCrashed,
    code_of,
)
from acestep.core.events import Cancelled, Event, Failed, Finished, Paused, Resumed
from acestep.core.files import remove_temporary_files, storage_errors
from acestep.core.garbage import garbage_collection_paused
from acestep.core.job_folder import JobFolder, Request
from acestep.core.launcher import SINGLE, Launch, launch_of_worker
from acestep.core.log import job_log
from acestep.core.registry import nearest_hint
from acestep.core.standard_streams import take_stdin
from acestep.core.untrusted import is_folder

# Followed by a run folder: runs the job of that folder in a separate process, with the configuration written there.
COMMAND = [sys.executable, "-m", "acestep", "run", "--as-written"]
PARENT_JOB = "ACESTEP_WHOLE_JOB"  # environment variable of a worker: the run folder of the main job
_PAUSE_POLL_S = 0.2


@dataclass(frozen=True)
class Context:
    """The interface of a running job: emits events, and reads the requests of the user.

    Attributes:
        folder: the run folder.
        parent: in a worker (``core.workers``) and in processes other than rank 0, the run folder of the main job.
        launch: this process among those of the job.
        stop: set by a signal that requests a stop of this process and not of the job, which torchrun may restart.
    """

    folder: Path
    parent: Path | None = None
    launch: Launch = SINGLE
    stop: threading.Event = field(default_factory=threading.Event)

    def emit(self, event: Event) -> None:
        """Append an event to the log of the job. Raises StorageError if the run folder is gone or cannot be written."""
        logger.info("{}", event)
        self._require_folder()
        log = JobFolder(self.folder).events
        with storage_errors(log.path):
            log.emit(event)

    @property
    def cancelled(self) -> bool:
        return self.requested("stop")

    def stop_if_cancelled(self) -> None:
        """Call between samples or steps. Waits while the job is paused.

        Raises:
            JobCancelled: the user requested a stop.
            StorageError: the folder of the job is gone.
            WorkerCrashed: the torchrun agent is gone.
        """
        self._require_folder()
        self.launch.require_agent()
        if self._paused:
            self.emit(Paused())
            while self._paused:
                time.sleep(_PAUSE_POLL_S)
                self._require_folder()
                self.launch.require_agent()
            self.emit(Resumed())
        if self.cancelled:
            raise JobCancelled("stopped by the user")

    def requested(self, request: Request) -> bool:
        """Whether the user requested this of the job or, in a worker, of the main job."""
        if request == "stop" and self.stop.is_set():
            return True
        folders = [JobFolder(folder) for folder in (self.folder, self.parent) if folder is not None]
        return any(getattr(folder, f"{request}_requested") for folder in folders)

    def _require_folder(self) -> None:
        if not is_folder(self.folder):
            raise StorageError(
                f"the folder {self.folder} no longer exists: it was removed, renamed or unmounted during the job",
                hint="Start the job again, and leave its folder in place until it has finished.",
            )

    @property
    def _paused(self) -> bool:
        return self.requested("pause") and not self.cancelled


Job = Callable[[Any, Context], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class JobType:
    """Import paths of a job, its configuration class and its check. They are imported on first use, and torch with
    them."""

    config: str
    run: str
    check: str = ""
    distributed: bool = False


JOBS: dict[str, JobType] = {}


def register_job(name: str, *, config: str, run: str, check: str = "", distributed: bool = False) -> None:
    """Register a job. Call it in the module that defines the configuration of the job.

    Args:
        config: ``module:Class`` of the configuration.
        run: ``module:function``, called with the configuration and a Context. Imported when the job runs.
        check: ``module:function``, called with the configuration before the folder of the job is created. It raises an
            error if the job cannot succeed.
        distributed: whether processes that torchrun or SLURM started share the job.

    Raises:
        ValueError: the name is taken.
    """
    if name in JOBS:
        raise ValueError(f"job {name!r} is registered twice")
    JOBS[name] = JobType(config, run, check, distributed)


def check_job(job: str, config: Config) -> None:
    """Check whether a job can start, before anything is written. Raises the error that it would fail with."""
    if job in JOBS and JOBS[job].check:
        pkgutil.resolve_name(JOBS[job].check)(config)


def write_job(folder: Path, job: str, config: Config) -> None:
    """Write the description of a job to ``folder``, for ``run_job`` or ``python -m acestep run FOLDER``.

    Earlier requests to stop or pause are cleared here and not when the job starts, so that a stop requested in between
    takes effect.

    Raises:
        JobBusy: another process is using this folder; nothing was changed.
        JobError: no job has this name.
        StorageError: the folder cannot be written.
    """
    if job not in JOBS:
        raise JobError(f"no job is called {job!r}", hint=nearest_hint(job, list(JOBS)))
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        job_folder = JobFolder(folder)
        with job_folder.lock():
            job_folder.clear_requests()
            job_folder.write_job(job, config.model_dump(mode="json"))


def read_job(folder: Path) -> tuple[str, Config]:
    """The name and checked configuration of the job in ``folder``. Raises JobError, ConfigError."""
    name, config = JobFolder(folder).read_job()
    if name not in JOBS:
        raise JobError(f"{folder} contains an unknown job {name!r}", hint=f"Known: {', '.join(JOBS)}.")
    config_type: type[Config] = pkgutil.resolve_name(JOBS[name].config)
    return name, parse(config_type, config)


def run_job(folder: Path, context: Context | None = None) -> Event:
    """Run the job in ``folder`` in this thread. Returns its last event, which is also in the event log.

    Args:
        context: default: that of a single process, or of a worker of ``core.workers``.

    Raises:
        JobBusy: another process is using this folder.
        JobError, ConfigError: the folder contains no valid job.
    """
    name, config = read_job(folder)
    with JobFolder(folder).lock(), job_log(JobFolder(folder).log_path):
        with storage_errors(folder):
            remove_temporary_files(folder)
        context = context or _context_of(folder)
        with garbage_collection_paused():
            job = pkgutil.resolve_name(JOBS[name].run)
        last = _outcome(job, config, context)
        try:
            context.emit(last)
        except StorageError as problem:  # the caller still receives the event
            logger.error("the last event of the job could not be written: {}", problem)
    return last


def _context_of(folder: Path) -> Context:
    """The context of a single process or of a worker, which stops when the main process exits."""
    parent = os.environ.get(PARENT_JOB)
    if parent is None:
        return Context(folder)

    pipe = take_stdin()

    def stop_with_parent() -> None:
        os.read(pipe, 1)  # returns when the main process closes the pipe
        JobFolder(folder).request_stop()

    threading.Thread(target=stop_with_parent, name="parent", daemon=True).start()
    return Context(folder, Path(parent), launch_of_worker())


def _outcome(job: Job, config: Config, context: Context) -> Event:
    try:
        return Finished(result=job(config, context))
    except JobCancelled as stop:
        return Cancelled(message=str(stop))
    except KeyboardInterrupt:
        return Cancelled(message="interrupted")
    except AceStepError as error:
        is_bug = isinstance(error, WorkerCrashed)
        return Failed(error=error.code, message=str(error), hint=error.hint, is_bug=is_bug, subject=error.subject)
    except Exception as error:  # noqa: BLE001 - the border of a job, which always ends with a final event
        logger.exception("the job failed")
        if _is_out_of_memory(error):
            hint = "Close other programs that use it, or choose settings that need less. Saved files are kept."
            return Failed(error=OutOfMemory.code, message="the device ran out of memory", hint=hint)
        hint = f"This is a bug; the details are in {JobFolder(context.folder).log_path}."
        return Failed(error=code_of(error), message=str(error) or repr(error), hint=hint, is_bug=True)


def _is_out_of_memory(error: Exception) -> bool:
    """MemoryError or the error of torch, which is recognized by its class name because torch is not imported here."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def exit_code(last: Event) -> int:
    """0 finished, 1 failed because of settings or input, 3 failed because of a bug, 130 stopped."""
    if isinstance(last, Failed):
        return 3 if last.is_bug else 1
    return 130 if isinstance(last, Cancelled) else 0
