"""The button that the page offers for a run that did not finish."""

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
class Recovery:
    """A button label, and either the tab to open or the settings to change before the run resumes."""

    label: str
    tab: str = ""
    change: Change = lambda training: {}


def _halved(training: TrainingConfig) -> dict[str, Any]:
    return {"learning_rate": peak_lr(training.optimizer_type, training.learning_rate) / 2}


def _less_memory(training: TrainingConfig) -> dict[str, Any]:
    """Less memory with the same number of samples per optimizer step: gradient accumulation instead of batches."""
    samples_per_step = training.batch_size * training.gradient_accumulation_steps
    return {"gradient_checkpointing": True, "batch_size": 1, "gradient_accumulation_steps": min(samples_per_step, 1024)}


RESUME = Recovery("Resume Training")
_BY_ERROR = {
    "LossNotFinite": Recovery("Halve the learning rate and resume", change=_halved),
    "CheckpointError": Recovery("Choose a model in 1. Service", tab="service"),
    "ModelMismatch": Recovery("Encode again in 3. Preprocess", tab="preprocess"),
    "TensorError": Recovery("Encode again in 3. Preprocess", tab="preprocess"),
    "MissingPackage": Recovery("Check this computer in System", tab="system"),
    "DiskFull": Recovery("Try again", change=lambda training: {}),
    "WorkerCrashed": RESUME,
    "OutOfMemory": Recovery("Use less memory and resume", change=_less_memory),
}


def recovery_for(state: State, last: Event | None) -> Recovery | None:
    """The button to offer; None if there is none for this error."""
    if state == "interrupted" or isinstance(last, Cancelled):
        return RESUME
    if not isinstance(last, Failed):
        return None
    return _BY_ERROR.get(last.error)
