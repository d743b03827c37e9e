"""The recovery that the page offers for a run that did not finish, as one button."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from acestep.core.events import Cancelled, Event, Failed
from acestep.training.configs import TrainingConfig
from acestep.training.optim.optimizers import peak_lr
from acestep.ui.watch import State

Change = Callable[[TrainingConfig], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Remedy:
    """A label, and either the tab that solves the problem or the settings to change before the run resumes."""

    label: str
    tab: str = ""
    change: Change = lambda training: {}


def _halved(training: TrainingConfig) -> dict[str, Any]:
    return {"learning_rate": peak_lr(training.optimizer_type, training.learning_rate) / 2}


def _leaner(training: TrainingConfig) -> dict[str, Any]:
    """Less memory for the same optimizer steps: smaller batches, more of them accumulated."""
    samples_per_step = training.batch_size * training.gradient_accumulation_steps
    return {"gradient_checkpointing": True, "batch_size": 1, "gradient_accumulation_steps": min(samples_per_step, 1024)}


GO_ON = Remedy("Resume Training")
_BY_ERROR = {
    "LossNotFinite": Remedy("Halve the learning rate and resume", change=_halved),
    "CheckpointError": Remedy("Choose a model in 1. Service", tab="service"),
    "ModelMismatch": Remedy("Encode again in 3. Preprocess", tab="preprocess"),
    "TensorError": Remedy("Encode again in 3. Preprocess", tab="preprocess"),
    "MissingPackage": Remedy("Check this computer in System", tab="system"),
    "DiskFull": Remedy("Try again", change=lambda training: {}),
    "WorkerCrashed": GO_ON,
    "OutOfMemory": Remedy("Use less memory and resume", change=_leaner),
}


def remedy_for(state: State, last: Event | None) -> Remedy | None:
    """The button to offer; None if no button would help."""
    if state == "interrupted" or isinstance(last, Cancelled):
        return GO_ON
    if not isinstance(last, Failed):
        return None
    return _BY_ERROR.get(last.error)
