"""The button that the page offers for a run that did not finish, or that was not started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
    every_layer = (training.gradient_checkpointing, training.gradient_checkpointing_every) == ("on", 1)
    return {
        "gradient_checkpointing": "offload" if every_layer and training.batch_size == 1 else "on",
        "gradient_checkpointing_every": 1,
        "batch_size": 1,
        "gradient_accumulation_steps": min(samples_per_step, 1024),
    }


RESUME, START_AGAIN = Recovery("Resume Training"), Recovery("Start again")
_SETTINGS = Recovery("Change the settings in 4. Train", tab="train")
_ENCODE = Recovery("Encode again in 3. Preprocess", tab="preprocess")
_BY_ERROR = {
    "LossNotFinite": Recovery("Halve the learning rate and resume", change=_halved),
    "OutOfMemory": Recovery("Use less memory and resume", change=_less_memory),
    "CheckpointError": Recovery("Choose a model in 1. Service", tab="service"),
    "DownloadError": Recovery("Choose a model in 1. Service", tab="service"),
    "ModelMismatch": _ENCODE,
    "TensorError": _ENCODE,
    "DatasetError": _ENCODE,
    "AudioError": _ENCODE,
    "AdapterError": Recovery("Change the adapter in 4. Train", tab="train"),
    "ConfigError": _SETTINGS,
    "UnknownName": _SETTINGS,
    "TrainingError": _SETTINGS,
    "NotWritable": Recovery("Change the output folder in 4. Train", tab="train"),
    "MissingPackage": Recovery("Check this computer in System", tab="system"),
    "DiskFull": Recovery("Try again"),
    "StorageError": Recovery("Try again"),
    "JobBusy": Recovery("Try again"),
}
_BY_SUBJECT = {
    "adapter": Recovery("Choose the model of the adapter in 1. Service", tab="service"),
    "fp16": Recovery("Compute in fp32 and resume", change=lambda training: {"mixed_precision": "fp32"}),
}


def recovery_for(state: State, last: Event | None, *, saved: bool = True) -> Recovery | None:
    """The button to offer for a run that ended; None if it finished or runs. ``saved``: it has a checkpoint."""
    found: Recovery | None = None
    if state == "interrupted" or isinstance(last, Cancelled):
        found = RESUME
    elif isinstance(last, Failed):
        found = _BY_SUBJECT.get(last.subject) or _BY_ERROR.get(last.error, RESUME)
    if found is None or saved or found.tab:
        return found
    if found is RESUME:
        return START_AGAIN
    return replace(found, label=found.label.replace("and resume", "and start again"))


def recovery_of_rejected(rejected: Failed) -> Recovery | None:
    """The button to offer for a run that was not started; None if only its settings on the same tab can help."""
    found = recovery_for("failed", rejected)
    return found if found is not None and found.tab not in ("", "train") else None
