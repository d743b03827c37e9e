"""What a long job tells the world, and the file it tells it through.

A job appends events to ``events.jsonl`` in its run folder, one JSON object a line. The page and the
command line read that file; nobody is called back, so nobody can stop the job by failing.
``str(event)`` is the line a person reads, the same everywhere.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events. ``time_s`` is in seconds since 1970."""

    time_s: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The job begins, or goes on after a resume: ``total`` of ``unit`` ("songs", "steps") are ahead."""

    job: str
    total: int
    unit: str

    def __str__(self) -> str:
        return f"{self.job}: {self.total} {self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(Event):
    """Something the user should know: an automatic choice with its reason, a phase, a warning."""

    message: str
    warning: bool = False

    def __str__(self) -> str:
        return f"warning: {self.message}" if self.warning else self.message


@dataclass(frozen=True, slots=True, kw_only=True)
class Progressed(Event):
    """``done`` of ``total`` units are finished; ``note`` names the latest.

    ``seconds_left`` is given by jobs whose units are of different kinds, which the speed of late would not tell.
    """

    done: int
    total: int
    note: str = ""
    seconds_left: float | None = None

    def __str__(self) -> str:
        return f"[{self.done}/{self.total}] {self.note}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemFailed(Event):
    """One input was left out, with the reason; the job goes on."""

    item: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"left out {self.item}: {told(self.message, self.hint)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLogged(Event):
    """One optimizer step. ``loss`` is the mean over the songs of the step."""

    step: int
    epoch: int
    loss: float
    lr: float
    grad_norm: float

    def __str__(self) -> str:
        return f"step {self.step}  epoch {self.epoch}  loss {self.loss:.4f}  lr {self.lr:.2e}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochLogged(Event):
    """One pass over the songs. The averages and figures are None until there is one."""

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
    """A file or folder is ready. ``role``: "labels", "tensor", "checkpoint", "best", "final", "sample", "audio",
    "adapter", "model", "estimate"."""

    path: str
    role: str

    def __str__(self) -> str:
        return f"saved {self.role}: {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The last event of a job that did what it was asked to. ``result`` is plain JSON."""

    result: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled(Event):
    """The last event of a job that the user stopped. ``message`` says what was kept."""

    message: str = ""

    def __str__(self) -> str:
        return f"stopped. {self.message}".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Event):
    """The last event of a job that could not go on. ``ours`` tells a bug from a user's mistake."""

    error: str
    message: str
    hint: str = ""
    ours: bool = False

    def __str__(self) -> str:
        return f"failed: {told(self.message, self.hint)}"


def told(message: str, hint: str) -> str:
    """What happened and what to do, as one line."""
    return f"{message.rstrip('.')}. {hint}" if hint else message


LAST = (Finished, Cancelled, Failed)
_TYPES: dict[str, type[Event]] = {
    kind.__name__: kind
    for kind in (Started, Noted, Progressed, ItemFailed, StepLogged, EpochLogged, Saved, Finished, Cancelled, Failed)
}


class EventLog:
    """An append-only file of events; one writer, any number of readers."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def emit(self, event: Event) -> None:
        line = json.dumps({"type": type(event).__name__, **asdict(event)}).encode()
        with self.path.open("ab+") as file:
            if file.tell() and not _ends_a_line(file):
                line = b"\n" + line  # the last writer was killed in the middle of a line
            file.write(line + b"\n")

    def read(self, offset: int = 0) -> tuple[list[Event], int]:
        """Events written since byte ``offset``, and the offset to ask from next time.

        A line still being written is left for the next call; one that never was finished is dropped.
        """
        if not self.path.exists():
            return [], offset
        with self.path.open("rb") as file:
            file.seek(offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        return [event for line in whole.splitlines() if (event := _decode(line))], offset + len(whole)


def _ends_a_line(file: BinaryIO) -> bool:
    file.seek(-1, 2)
    return file.read(1) == b"\n"


def _decode(line: bytes) -> Event | None:
    """The event of a line; None for a cut line or a kind that a newer program wrote."""
    try:
        data = json.loads(line)
        kind = _TYPES[data.pop("type")]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AttributeError):
        return None
    known = {f.name for f in fields(kind)}
    return kind(**{key: value for key, value in data.items() if key in known})
