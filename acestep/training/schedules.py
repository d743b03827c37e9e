"""Learning rate over the steps of a run: a shape per schedule, after one warm-up for all of them.

A rate is a function of the step alone, so a resumed run needs nothing but its step number. The shapes equal
torch's ``SequentialLR`` of ``LinearLR(0.1 -> 1)`` and the scheduler named at each (SPEC 3.6), without torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from acestep.core.registry import Registry

WARMUP_START = 0.1  # the first step of the warm-up has this share of the peak rate
FLOOR = 0.01  # falling schedules end at this share of it

Shape = Callable[[int, int], float]  # (steps since the warm-up, steps from there to the end) -> share of the peak

SCHEDULES: Registry[Shape] = Registry("schedule")


@dataclass(frozen=True, slots=True)
class Schedule:
    """The share of the peak rate at each step of a run, in (0, 1]."""

    shape: Shape
    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        """``step`` counts the optimizer steps before this one."""
        if step < self.warmup_steps:
            return WARMUP_START + (1 - WARMUP_START) * step / self.warmup_steps
        length = max(1, self.total_steps - self.warmup_steps)
        return self.shape(min(step - self.warmup_steps, length), length)


def make_schedule(name: str, *, total_steps: int, warmup_steps: int) -> Schedule:
    """The schedule ``name`` over the true number of steps; a tenth of them at most is warm-up. Raises UnknownName."""
    return Schedule(SCHEDULES[name].make, min(warmup_steps, max(1, total_steps // 10)), total_steps)


@SCHEDULES.register("cosine", label="Cosine", help="Falls along half a cosine to a hundredth of the peak.")
def cosine(step: int, length: int) -> float:
    """torch ``CosineAnnealingLR(T_max=length, eta_min=0.01 * lr)``."""
    return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * step / length)) / 2


@SCHEDULES.register(
    "cosine_restarts",
    label="Cosine with restarts",
    help="Cosine over a quarter of the run, then again over twice as long each time.",
)
def cosine_restarts(step: int, length: int) -> float:
    """torch ``CosineAnnealingWarmRestarts(T_0=length // 4, T_mult=2, eta_min=0.01 * lr)``."""
    period = max(1, length // 4)
    while step >= period:
        step -= period
        period *= 2
    return cosine(step, period)


@SCHEDULES.register("linear", label="Linear", help="Falls along a line to a hundredth of the peak.")
def linear(step: int, length: int) -> float:
    """torch ``LinearLR(1.0 -> 0.01, total_iters=length)``."""
    return 1 - (1 - FLOOR) * step / length


@SCHEDULES.register("constant", label="Constant", help="Stays at the peak after the warm-up.")
@SCHEDULES.register(
    "constant_with_warmup",
    label="Constant with warm-up",
    help="The same as constant, under the name that older presets use.",
)
def constant(step: int, length: int) -> float:
    """torch ``ConstantLR(factor=1.0)``."""
    return 1.0
