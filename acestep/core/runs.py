"""The history of runs on disk: what was asked, how far it came, how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from acestep.core.errors import JobError
from acestep.core.event_log import EventLog
from acestep.core.events import Cancelled, EpochLogged, Event, Failed, Finished, Started, StepLogged
from acestep.core.files import read_versioned
from acestep.core.workers import FOLDER as WORKERS


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run folder. ``state``: "running", "done", "stopped", "failed" or "interrupted" (killed: it can go on)."""

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
    """Every run folder at or below ``root``, newest first. Folders that cannot be read are not runs.

    Neither are those of the workers that share a job.
    """
    found = root.rglob("job.json") if root.is_dir() else []
    folders = sorted({file.parent for file in found if file.parts[-3] != WORKERS})
    runs = []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except JobError:
            continue
    return sorted(runs, key=lambda run: run.started_s, reverse=True)


def read_run(folder: Path) -> RunSummary:
    """What is known of one run folder. Raises JobError when it describes no job."""
    request = read_versioned(folder / "job.json", "job", 1, error=JobError)
    events, _ = EventLog(folder / "events.jsonl").read()
    last = events[-1] if events else None
    epochs = [event for event in events if isinstance(event, EpochLogged)]
    steps = [event for event in events if isinstance(event, StepLogged)]
    return RunSummary(
        folder=folder,
        job=str(request.get("job")),
        state=_state(folder, last),
        started_s=next((event.time_s for event in events if isinstance(event, Started)), 0.0),
        message=str(last) if last else "",
        step=max(steps[-1].step if steps else 0, epochs[-1].step if epochs else 0),
        epoch=epochs[-1].epoch if epochs else 0,
        loss=epochs[-1].loss if epochs else None,
        fit_loss=next((e.fit_loss for e in reversed(epochs) if e.fit_loss is not None), None),
        validation_loss=next((e.validation_loss for e in reversed(epochs) if e.validation_loss is not None), None),
        config=request.get("config", {}),
        result=last.result if isinstance(last, Finished) else {},
    )


def _state(folder: Path, last: Event | None) -> str:
    for kind, state in ((Finished, "done"), (Cancelled, "stopped"), (Failed, "failed")):
        if isinstance(last, kind):
            return state
    lock = FileLock(folder / "lock")
    try:
        with lock.acquire(timeout=0):
            return "interrupted"
    except Timeout:
        return "running"
