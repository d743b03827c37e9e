"""The events that a job reports. ``core.event_log`` writes and reads them.

``str(event)`` is the line that the pages, the terminal and the log show.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    ``type_name`` is the name of the class in ``events.jsonl``; ``keys`` maps fields to their keys there, where the two
    differ. Both stay when a class or a field is renamed. ``optional`` names the fields that are written only if they
    differ from their default; earlier versions do not know them. ``time_s`` is in seconds since 1970.
    """

    type_name: ClassVar[str]
    keys: ClassVar[Mapping[str, str]] = {}
    optional: ClassVar[tuple[str, ...]] = ()

    time_s: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The job starts or resumes, with ``total`` units ("songs", "steps") to do."""

    type_name: ClassVar[str] = "Started"

    job: str
    total: int
    unit: str

    def __str__(self) -> str:
        return f"{self.job}: {self.total} {self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogMessage(Event):
    """A message for the user, such as an automatic choice with its reason, or a warning."""

    type_name: ClassVar[str] = "Noted"

    message: str
    warning: bool = False

    def __str__(self) -> str:
        return f"warning: {self.message}" if self.warning else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseStarted(Event):
    """The job enters a phase, such as "Loading the model". It ends with the next phase or progress."""

    type_name: ClassVar[str] = "PhaseStarted"

    phase: str

    def __str__(self) -> str:
        return self.phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(Event):
    """The job waits for a device that another job uses.

    Attributes:
        message: the text for the user.
        device: the device, such as "cuda:0".
        holder: what the other job does, such as "training"; holder_folder: its run folder.
        share_file: creating this file makes the job run at the same time as the other one.
    """

    type_name: ClassVar[str] = "Waiting"

    message: str
    device: str = ""
    holder: str = ""
    holder_folder: str = ""
    share_file: str = ""

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(Event):
    """The user paused the job. Its memory stays allocated."""

    type_name: ClassVar[str] = "Paused"

    def __str__(self) -> str:
        return "paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """The user resumed the paused job."""

    type_name: ClassVar[str] = "Resumed"

    def __str__(self) -> str:
        return "resumed after a pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed(Event):
    """``done`` of ``total`` units are finished; ``note`` names the latest.

    Jobs whose units take different amounts of time estimate ``seconds_left`` themselves. With a ``phase``, all of it is
    about that phase and not about the whole job.
    """

    type_name: ClassVar[str] = "Progressed"
    optional: ClassVar[tuple[str, ...]] = ("phase",)

    done: int
    total: int
    note: str = ""
    seconds_left: float | None = None
    phase: str = ""

    def __str__(self) -> str:
        if self.phase:
            left = "" if self.seconds_left is None else f", about {approximate_time(self.seconds_left)} left"
            return f"{self.phase}: {100 * self.done // max(1, self.total)} %{left}"
        return f"[{self.done}/{self.total}] {self.note}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFailed(Event):
    """One input was skipped, with the reason; the job continues."""

    type_name: ClassVar[str] = "ItemFailed"

    item: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"skipped {self.item}: {describe(self.message, self.hint)}"


def describe_position(epoch: int, epochs: int, step: int, steps: int) -> str:
    """ "epoch 3 of 40 (step 120/1600)"; a total of 0 is unknown."""
    return f"epoch {epoch}{f' of {epochs}' if epochs else ''} (step {step}{f'/{steps}' if steps else ''})"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLogged(Event):
    """One optimizer step. ``loss`` is the mean over the samples of the step.

    ``epochs`` and ``steps`` are the totals of the run; 0 if unknown, as in logs of earlier versions.
    """

    type_name: ClassVar[str] = "StepLogged"
    optional: ClassVar[tuple[str, ...]] = ("epochs", "steps")

    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float
    epochs: int = 0
    steps: int = 0

    @property
    def position(self) -> str:
        """See ``describe_position``."""
        return describe_position(self.epoch, self.epochs, self.step, self.steps)

    def __str__(self) -> str:
        return f"{self.position}  loss {self.loss:.4f}  lr {self.lr:.2e}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLogged(Event):
    """One pass over the dataset. The averages and metrics are None until they are computed."""

    type_name: ClassVar[str] = "EpochLogged"

    epoch: int
    epochs: int
    step: int
    seconds: float
    loss: float
    moving_average: float | None = None
    best: float | None = None
    best_epoch: int | None = None
    fit_loss: float | None = None
    validation_loss: float | None = None

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch}/{self.epochs}", f"{self.seconds:.1f} s", f"loss {self.loss:.4f}"]
        for name, value in (
            ("MA5", self.moving_average),
            ("fit", self.fit_loss),
            ("validation", self.validation_loss),
        ):
            if value is not None:
                parts.append(f"{name} {value:.4f}")
        if self.best is not None:
            parts.append(f"best {self.best:.4f} @ {self.best_epoch}")
        return "  ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved(Event):
    """A file or folder was written. ``role``: "labels", "tensor", "checkpoint", "best", "final", "sample", "audio",
    "adapter", "model", "estimate"."""

    type_name: ClassVar[str] = "Saved"

    path: str
    role: str

    def __str__(self) -> str:
        return f"saved {self.role}: {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The last event of a job that succeeded. ``result`` is plain JSON."""

    type_name: ClassVar[str] = "Finished"

    result: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(Event):
    """The last event of a job that the user stopped. ``message`` says what was saved."""

    type_name: ClassVar[str] = "Cancelled"

    message: str = ""

    def __str__(self) -> str:
        return f"stopped. {self.message}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The last event of a job that failed. ``is_bug`` distinguishes a bug of this program from a user's mistake.

    ``error`` is the code of an error class (``core.errors``), or the class name of any other exception. ``subject`` is
    that of the error: "adapter" if an adapter does not fit the model, "fp16" if a loss computed in it is not finite,
    otherwise empty.
    """

    type_name: ClassVar[str] = "Failed"
    keys: ClassVar[Mapping[str, str]] = {"is_bug": "ours"}
    optional: ClassVar[tuple[str, ...]] = ("subject",)

    error: str
    message: str
    hint: str = ""
    is_bug: bool = False
    subject: str = ""

    def __str__(self) -> str:
        return f"failed: {describe(self.message, self.hint)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent(Event):
    """A line of ``events.jsonl`` with an unknown type or unknown fields, for example from a newer version."""

    type_name: ClassVar[str] = "UnknownEvent"

    raw_type: str
    data: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.raw_type} (unknown event)"


def approximate_time(seconds: float) -> str:
    """An estimated time: ``40 s``, ``12 min``, ``2 h 40 min``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def describe(message: str, hint: str) -> str:
    """A message and its hint as one line."""
    return f"{message.rstrip('.')}. {hint}" if hint else message


FINAL_EVENTS = (Finished, Cancelled, Failed)
