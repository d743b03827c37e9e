"""Runs variants in alternation and compares their medians.

The speed of a computer varies with temperature and load. So the variants are measured alternately for several rounds,
and the result is the ratio of their medians; an absolute time says little.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

PLAIN = "plain"
"""Name of the variant that does the same work without this program's own code."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Work:
    """What one training step does, counted in the first round; None where it was not counted.

    Attributes:
        flops: floating-point operations of its matrix products, convolutions and attention.
        matmul_flops_per_s: what a large matrix product of the same dtype reaches on the same device.
        dispatches: PyTorch operations per micro-batch.
        host_waits: values that the host reads per step. On a GPU each waits for it.
        kernels: GPU kernels per micro-batch, CUDA only.
    """

    flops: int
    matmul_flops_per_s: float
    dispatches: int
    host_waits: int
    kernels: int | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of one variant: the seconds of each repetition, and the songs that each processes."""

    times: Sequence[float]
    songs: int
    peak_gb: float | None = None
    work: Work | None = None
    details: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Speed:
    """The throughput of one variant, as in the JSON output of the command."""

    name: str
    median_s: float  # of one repetition: an optimizer step, a preprocessing run, ...
    spread: float  # interquartile range divided by the median
    songs_per_hour: float
    ratio: float  # songs_per_hour divided by that of the first variant
    speedup: float | None  # songs_per_hour divided by that of ``PLAIN``, if it was measured
    peak_gb: float | None  # peak device memory, known on CUDA only
    flop_utilization: float | None = None  # of the rate that a large matrix product reaches
    dispatches: int | None = None
    kernels: int | None = None
    host_waits: int | None = None
    details: Mapping[str, float] = field(default_factory=dict)  # further medians in seconds


def alternate(
    variants: Mapping[str, T], measure: Callable[[str, T, bool], Round], *, rounds: int, on_round: Callable[[str], None]
) -> list[Speed]:
    """Measure each variant once per round: ``measure(name, variant, is_first_round)``."""
    found: dict[str, list[Round]] = {name: [] for name in variants}
    for turn in range(rounds):
        for name, variant in variants.items():
            on_round(f"round {turn + 1} of {rounds}: {name}")
            found[name].append(measure(name, variant, turn == 0))
    return compare(found)


def compare(found: Mapping[str, Sequence[Round]]) -> list[Speed]:
    """The speed of each variant, relative to the first one and to ``PLAIN``."""
    times = {name: [each for measured in rounds for each in measured.times] for name, rounds in found.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    per_hour = {name: 3600 * found[name][0].songs / medians[name] for name in found}
    first, plain = next(iter(per_hour.values())), per_hour.get(PLAIN)
    return [
        Speed(
            name=name,
            median_s=medians[name],
            spread=_spread(times[name]),
            songs_per_hour=per_hour[name],
            ratio=per_hour[name] / first,
            speedup=None if plain is None else per_hour[name] / plain,
            peak_gb=max((each.peak_gb for each in rounds if each.peak_gb is not None), default=None),
            details=_medians(rounds),
            **_work(rounds[0].work, medians[name]),
        )
        for name, rounds in found.items()
    ]


def _work(work: Work | None, seconds: float) -> dict[str, Any]:
    if work is None:
        return {}
    return {
        "flop_utilization": work.flops / seconds / work.matmul_flops_per_s,
        "dispatches": work.dispatches,
        "kernels": work.kernels,
        "host_waits": work.host_waits,
    }


def _medians(rounds: Sequence[Round]) -> dict[str, float]:
    return {name: statistics.median(each.details[name] for each in rounds) for name in rounds[0].details}


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle
