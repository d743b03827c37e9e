"""Learning-rate schedules: a linear warm-up, then the shape that the schedule defines.

The learning rate is a function of the step alone, so a resumed run needs only its step number. Each schedule equals
torch's ``SequentialLR`` of ``LinearLR(0.1 -> 1)`` and the scheduler named in its docstring. Importing this module does
not import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from acestep.core.registry import Entry, Registry

WARMUP_START = 0.1  # fraction of the peak learning rate at the first warm-up step
FLOOR = 0.01  # fraction of the peak learning rate at which decaying schedules end

Shape = Callable[[int, int], float]  # (steps since the warm-up, steps from there to the end) -> fraction of the peak

SCHEDULES: Registry[Entry[Shape]] = Registry("schedule", Entry)

SCHEDULES.register(
    "cosine",
    target="acestep.training.optim.schedules:cosine",
    label="Cosine",
    help="Half a cosine, down to 1% of the peak learning rate.",
)
SCHEDULES.register(
    "cosine_restarts",
    target="acestep.training.optim.schedules:cosine_restarts",
    label="Cosine with restarts",
    help="A cosine over a quarter of the run, then restarts, each twice as long.",
)
SCHEDULES.register(
    "linear",
    target="acestep.training.optim.schedules:linear",
    label="Linear",
    help="Linear decay to 1% of the peak learning rate.",
)
SCHEDULES.register(
    "constant",
    target="acestep.training.optim.schedules:constant",
    label="Constant",
    help="The peak learning rate after the warm-up.",
)
SCHEDULES.register(
    "constant_with_warmup",
    target="acestep.training.optim.schedules:constant",
    label="Constant with warm-up",
    help="Same as constant; the name that older presets use.",
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Fraction of the peak learning rate at each step of a run, in (0, 1]."""

    shape: Shape
    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        """``step`` is the number of completed optimizer steps."""
        if step < self.warmup_steps:
            return WARMUP_START + (1 - WARMUP_START) * step / self.warmup_steps
        length = max(1, self.total_steps - self.warmup_steps)
        return self.shape(min(step - self.warmup_steps, length), length)


def make_schedule(name: str, *, total_steps: int, warmup_steps: int) -> Schedule:
    """The schedule ``name`` over ``total_steps``; the warm-up is at most a tenth of them. Raises UnknownName."""
    return Schedule(SCHEDULES[name].load(), min(warmup_steps, max(1, total_steps // 10)), total_steps)


def cosine(step: int, length: int) -> float:
    """torch ``CosineAnnealingLR(T_max=length, eta_min=0.01 * lr)``."""
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * step / length)) / 2


def cosine_restarts(step: int, length: int) -> float:
    """torch ``CosineAnnealingWarmRestarts(T_0=length // 4, T_mult=2, eta_min=0.01 * lr)``."""
    period = max(1, length // 4)
    while step >= period:
        step -= period
        period *= 2
    return cosine(step, period)


def linear(step: int, length: int) -> float:
    """torch ``LinearLR(1.0 -> 0.01, total_iters=length)``."""
    return 1 - (1 - FLOOR) * step / length


def constant(step: int, length: int) -> float:
    """torch ``ConstantLR(factor=1.0)``."""
    return 1.0
