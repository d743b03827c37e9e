"""Which epoch was best so far, and how long ago: best-model selection and early stopping."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

WINDOW = 5  # epochs in the moving average; the loss of a single epoch is noisy
MIN_IMPROVEMENT = 0.001


@dataclass(slots=True)
class BestTracker:
    """Tracks the moving average of the epoch losses. It is part of the training state.

    ``best`` is updated from epoch ``start`` on (1 is the first), once five losses can be averaged.
    """

    best: float | None = None
    best_epoch: int | None = None
    patience: int = 0  # epochs since the best one
    window: list[float] = field(default_factory=list)

    @property
    def moving_average(self) -> float | None:
        """Mean loss of the latest epochs; None while there are fewer than two."""
        return sum(self.window) / len(self.window) if len(self.window) > 1 else None

    def update(self, epoch: int, loss: float, *, start: int) -> bool:
        """Add the loss of an epoch; True if its moving average is the best so far."""
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
    """The first epoch that may become the best one, at most half of the run: otherwise there might be none."""
    return max(1, min(auto_save_best_after, max_epochs // 2))
