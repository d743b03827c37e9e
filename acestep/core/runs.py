"""Lists the runs on disk with their configuration, progress and result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core.errors import JobError
from acestep.core.events import EpochLogged, Finished, Started, StepLogged
from acestep.core.job_folder import ACTIVE_STATES, JobFolder, job_folders


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run folder. ``state``: "running", "done", "stopped", "failed" or "interrupted" (killed; it can be resumed)."""

    folder: Path
    job: str
    state: str
    started_s: float
    message: str
    step: int
    epoch: int
    loss: float | None
    fit_loss: float | None
    validation_loss: float | None
    config: dict[str, Any]
    result: dict[str, Any]


def list_runs(root: Path) -> list[RunSummary]:
    """Every run folder at or below ``root``, newest first, except those of workers and those that cannot be read."""
    runs = []
    for folder in job_folders(root):
        try:
            runs.append(read_run(folder))
        except JobError:
            continue
    return sorted(runs, key=lambda run: run.started_s, reverse=True)


def read_run(folder: Path) -> RunSummary:
    """The summary of one run folder. Raises JobError if it contains no job."""
    job_folder = JobFolder(folder)
    job, config = job_folder.read_job()
    events, _ = job_folder.events.read()
    last = events[-1] if events else None
    epochs = [event for event in events if isinstance(event, EpochLogged)]
    steps = [event for event in events if isinstance(event, StepLogged)]
    return RunSummary(
        folder=folder,
        job=job,
        state="running" if job_folder.state in ACTIVE_STATES else job_folder.state,
        started_s=next((event.time_s for event in events if isinstance(event, Started)), 0.0),
        message=str(last) if last else "",
        step=max(steps[-1].step if steps else 0, epochs[-1].step if epochs else 0),
        epoch=epochs[-1].epoch if epochs else 0,
        loss=epochs[-1].loss if epochs else None,
        fit_loss=next((e.fit_loss for e in reversed(epochs) if e.fit_loss is not None), None),
        validation_loss=next((e.validation_loss for e in reversed(epochs) if e.validation_loss is not None), None),
        config=config,
        result=last.result if isinstance(last, Finished) else {},
    )
