"""Long jobs: what one may do, how it is run, started, watched and stopped.

A job is a function ``run(config, context) -> result``. It emits events, asks between two units of work
whether to stop, and returns plain JSON. It runs in the calling thread (command line), in a thread of the
app, or in a process of its own; it cannot tell which.
``core.job_folder`` describes the files of a job.
"""

from __future__ import annotations

import os
import pkgutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from acestep.core.files import remove_leftovers, storage_errors
from acestep.core.job_folder import JobFolder, Request
from acestep.core.log import job_log
from acestep.core.registry import nearest_hint

# With a run folder behind it: its job, just as it is described there, in a process of its own.
COMMAND = [sys.executable, "-m", "acestep", "run", "--as-written"]
WHOLE = "ACESTEP_WHOLE_JOB"  # in the environment of a worker: the run folder of the job that it does a share of
_PAUSE_LOOK_S = 0.2


@dataclass(frozen=True)
class Context:
    """A job's only way to the outside: tell an event, learn that it should stop.

    ``whole`` is the run folder of the job that this one is a share of, if it is one (``core.workers``).
    """

    folder: Path
    whole: Path | None = None

    def emit(self, event: Event) -> None:
        """Tell the world. Raises StorageError when the run folder cannot take it."""
        logger.info("{}", event)
        log = JobFolder(self.folder).events
        with storage_errors(log.path):
            log.emit(event)

    @property
    def cancelled(self) -> bool:
        return self.requested("stop")

    def stop_if_cancelled(self) -> None:
        """Call between units of work (a song, a step); it waits while the user wants a pause. Raises JobCancelled."""
        if self._paused:
            self.emit(Paused())
            while self._paused:
                time.sleep(_PAUSE_LOOK_S)
            self.emit(Resumed())
        if self.cancelled:
            raise JobCancelled("stopped by the user")

    def requested(self, request: Request) -> bool:
        """Whether the user requested this of the job, or of the whole of which it is a share."""
        folders = [JobFolder(folder) for folder in (self.folder, self.whole) if folder is not None]
        return any(getattr(folder, f"{request}_requested") for folder in folders)

    @property
    def _paused(self) -> bool:
        return self.requested("pause") and not self.cancelled


Job = Callable[[Any, Context], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class JobType:
    """The import paths of a job and its configuration, so that torch is imported with the first job."""

    config: str
    run: str


JOBS: dict[str, JobType] = {}


def register_job(name: str, *, config: str, run: str) -> None:
    """Add a job to those that ``run_job`` knows; called beside the job's configuration, in its own layer.

    Args:
        config: ``module:Class`` of the configuration.
        run: ``module:function``, called with the configuration and a Context. Imported when the job runs.
    """
    if name in JOBS:
        raise ValueError(f"job {name!r} is registered twice")
    JOBS[name] = JobType(config, run)


def write_job(folder: Path, job: str, config: Config) -> None:
    """Describe a job in ``folder``, to be done by ``run_job`` here or by ``python -m acestep run FOLDER``.

    An earlier wish to stop or wait is forgotten here and not when the job starts: a stop asked for in between counts.

    Raises:
        JobBusy: another program works in this folder; it is left alone.
        JobError, StorageError.
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
        raise JobError(f"{folder} asks for an unknown job {name!r}", hint=f"Known: {', '.join(JOBS)}.")
    config_type: type[Config] = pkgutil.resolve_name(JOBS[name].config)
    return name, parse(config_type, config)


def run_job(folder: Path) -> Event:
    """Do the job described in ``folder`` here and now. Returns its last event, which is also in the file.

    Raises:
        JobBusy: another program works in this folder.
        JobError, ConfigError: the folder describes no job that can be run.
    """
    name, config = read_job(folder)
    with JobFolder(folder).lock(), job_log(JobFolder(folder).log_path):
        with storage_errors(folder):
            remove_leftovers(folder)
        context = Context(folder, _whole_of(folder))
        last = _outcome(pkgutil.resolve_name(JOBS[name].run), config, context)
        try:
            context.emit(last)
        except StorageError as full:  # the caller is told all the same
            logger.error("the end of the job is not in its folder: {}", full)
    return last


def _whole_of(folder: Path) -> Path | None:
    """The run folder that a worker's ``folder`` is a share of. When the process that started it ends, it stops."""
    whole = os.environ.get(WHOLE)
    if whole is None:
        return None

    def stop_with_starter() -> None:
        os.read(0, 1)  # waits until the other end is closed
        JobFolder(folder).request_stop()

    threading.Thread(target=stop_with_starter, name="starter", daemon=True).start()
    return Path(whole)


def _outcome(job: Job, config: Config, context: Context) -> Event:
    try:
        return Finished(result=job(config, context))
    except JobCancelled as stop:
        return Cancelled(message=str(stop))
    except KeyboardInterrupt:
        return Cancelled(message="interrupted")
    except AceStepError as error:
        is_bug = isinstance(error, WorkerCrashed)
        return Failed(error=error.code, message=str(error), hint=error.hint, is_bug=is_bug)
    except Exception as error:  # noqa: BLE001 - the border of a job: it never ends without a last event
        logger.exception("the job failed")
        if _is_out_of_memory(error):
            hint = "Close other programs that use it, or choose settings that need less. Saved files are kept."
            return Failed(error=OutOfMemory.code, message="the device ran out of memory", hint=hint)
        hint = f"This is a bug; the details are in {JobFolder(context.folder).log_path}."
        return Failed(error=code_of(error), message=str(error) or repr(error), hint=hint, is_bug=True)


def _is_out_of_memory(error: Exception) -> bool:
    """Also torch's error, recognized by its class name because this module does not import torch."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def exit_code(last: Event) -> int:
    """0 done, 1 a user's mistake, 3 our fault, 130 stopped."""
    if isinstance(last, Failed):
        return 3 if last.is_bug else 1
    return 130 if isinstance(last, Cancelled) else 0
