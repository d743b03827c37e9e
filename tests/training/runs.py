"""Small training runs on the tiny checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from acestep.core.event_log import EventLog
from acestep.core.events import Event
from acestep.core.jobs import Context
from acestep.training.configs import TrainJob
from acestep.training.parsing import set_value
from acestep.training.trainer import train_job
from tests.training.songs import write_samples

LENGTHS = [(24, 5), (17, 7), (30, 4), (21, 6), (26, 5)]
SETTINGS: dict[str, Any] = {
    "max_epochs": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-2,
    "max_latent_length": 20,
    "measure_every_n_epochs": 0,
    "save_every_n_epochs": 0,
    "attention_type": "cross",
    "log_every_n_steps": 1,
    "lora.r": 4,
    "lora.alpha": 8,
    "lokr.linear_dim": 2,
    "lokr.factor": 4,
}


class Unstoppable(Context):
    """Notes events; ``stop_when`` is asked, as the page would be, whether to stop."""

    def __init__(self, folder: Path, stop_when: Callable[[], bool] = lambda: False) -> None:
        super().__init__(folder)
        object.__setattr__(self, "events", [])
        object.__setattr__(self, "_stop_when", stop_when)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    @property
    def cancelled(self) -> bool:
        return self._stop_when()


def make_job(tensors: Path, checkpoint: Path, out: Path, resume: str | None = None, **settings: Any) -> TrainJob:
    """A job of a few seconds; settings by qualified name, with double underscores for dots."""
    job = TrainJob(tensor_dir=tensors, checkpoint=str(checkpoint), out=out, resume=resume, device="cpu")
    for key, value in {**SETTINGS, **{key.replace("__", "."): value for key, value in settings.items()}}.items():
        set_value(job, key, value)
    return job


def run(job: TrainJob, stop_when: Callable[[], bool] = lambda: False) -> tuple[dict[str, Any], list[Event]]:
    """The job's result and its events."""
    context = Unstoppable(job.out, stop_when)
    return train_job(job, context), context.events


def of_kind(events: list[Event], kind: type) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def log_of(folder: Path) -> list[Event]:
    return EventLog(folder / "events.jsonl").read()[0]


def tensors_for(folder: Path, checkpoint: Path, lengths: list[tuple[int, int]] | None = None) -> Path:
    return write_samples(folder, checkpoint, LENGTHS if lengths is None else lengths)
