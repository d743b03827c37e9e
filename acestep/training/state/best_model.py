"""Which epoch was the best so far, and when to give up hoping for a better one (SPEC 3.12)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

WINDOW = 5  # epochs whose losses are averaged: single epochs are noise
MIN_IMPROVEMENT = 0.001


@dataclass(slots=True)
class BestTracker:
    """Follows the moving average of the epoch losses. All of it is part of the training state.

    ``best`` counts from epoch ``start`` (1 is the first) and once there are five losses to average.
    """

    best: float | None = None
    best_epoch: int | None = None
    patience: int = 0  # epochs since the best one
    window: list[float] = field(default_factory=list)

    @property
    def moving_average(self) -> float | None:
        """Of the latest epochs; None while there are fewer than two."""
        return sum(self.window) / len(self.window) if len(self.window) > 1 else None

    def update(self, epoch: int, loss: float, *, start: int) -> bool:
        """Take in the loss of an epoch; True when it is the best so far."""
        self.window = [*self.window, loss][-WINDOW:]
        if epoch < start or len(self.window) < WINDOW:
            return False
        average = sum(self.window) / WINDOW
        if self.best is None or average < self.best - MIN_IMPROVEMENT:
            self.best, self.best_epoch, self.patience = average, epoch, 0
            return True
        self.patience += 1
        return False

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> BestTracker:
        return cls(**{f.name: state[f.name] for f in fields(cls)})


def first_tracked_epoch(auto_save_best_after: int, max_epochs: int) -> int:
    """The epoch from which the best is looked for: never later than half of the run, or it would not begin at all."""
    return max(1, min(auto_save_best_after, max_epochs // 2))
