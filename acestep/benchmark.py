"""Throughput of settings on this computer, relative to each other.

The speed of a computer varies with temperature and load. So the variants are measured alternately for several rounds,
and the result is the ratio of their medians; an absolute time says little.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from loguru import logger

from acestep.core.errors import ConfigError
from acestep.core.events import Event
from acestep.core.jobs import Context
from acestep.models.memory_limit import limit_memory
from acestep.preprocessing.builder import preprocess_job
from acestep.preprocessing.configs import PreprocessJob
from acestep.training.configs import TrainJob
from acestep.training.loop import StepReport, train
from acestep.training.prepare import prepare
from acestep.training.session import Session
from acestep.training.state.random_state import seeded_generators

_WARM_UP_STEPS = 2  # they load kernels and fill caches, and are not counted


@dataclass(frozen=True, slots=True)
class Speed:
    """The throughput of one variant."""

    name: str
    median_s: float  # of an optimizer step, or of a preprocessing run
    spread: float  # interquartile range divided by the median
    songs_per_hour: float
    ratio: float  # songs_per_hour divided by that of the first variant
    peak_gb: float | None  # peak device memory, known on CUDA only


class _SilentContext(Context):
    """A job without events."""

    def emit(self, event: Event) -> None:
        """Discard the event."""


class _Stopwatch:
    """A ``Callback`` of the loop that times each step and ends training after ``steps``."""

    def __init__(self, steps: int) -> None:
        self._steps, self._last = steps, time.perf_counter()
        self.times: list[float] = []

    def after_step(self, report: StepReport) -> bool:
        now = time.perf_counter()
        self.times.append(now - self._last)
        self._last = now
        return len(self.times) >= self._steps


def bench_training(
    variants: Mapping[str, TrainJob], *, steps: int, rounds: int, on_round: Callable[[str], None]
) -> list[Speed]:
    """Time optimizer steps of each variant. Nothing is saved.

    Raises:
        ConfigError: the dataset is smaller than one optimizer step. Others: those of ``train_job``.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    samples = dict.fromkeys(variants, 0)
    peaks: dict[str, float | None] = dict.fromkeys(variants)
    for turn in range(rounds):
        for name, job in variants.items():
            on_round(f"round {turn + 1} of {rounds}: {name}")
            measured, samples[name], peak = _time_steps(job, steps + _WARM_UP_STEPS)
            times[name] += measured[_WARM_UP_STEPS:]
            peaks[name] = max(peak, peaks[name] or 0.0) if peak is not None else None
    return _compare(times, samples, peaks)


def _time_steps(job: TrainJob, steps: int) -> tuple[list[float], int, float | None]:
    """Seconds of each step, samples per step, and peak device memory in GB."""
    with TemporaryDirectory() as folder:
        temporary_job = job.model_copy(update={"out": Path(folder) / "run", "resume": None})
        temporary_job.training = job.training.model_copy(update={"max_epochs": 100_000, "max_steps": 0})
        context = _SilentContext(Path(folder))
        prepared = prepare(temporary_job, context)
        samples_per_step = prepared.step_plan.samples_per_step
        if samples_per_step > len(prepared.samples):
            raise ConfigError(
                [f"{len(prepared.samples)} samples do not fill an optimizer step of {samples_per_step}"],
                hint="Lower batch_size or gradient_accumulation_steps, or use a larger dataset.",
            )
        limit_memory(str(prepared.device), logger.info)
        _reset_peak(prepared.device)
        with seeded_generators(job.training.seed, prepared.device), closing(Session(prepared, context.emit)) as session:
            stopwatch = _Stopwatch(steps)
            train(
                fabric=session.fabric,
                model=session.model,
                optimizer=session.optimizer,
                lr_at=lambda step: prepared.lr,
                steps=(step for step in prepared.step_plan.steps() if step.num_samples == samples_per_step),
                make_batch=session.make_batch,
                progress=session.progress,
                random=session.random,
                max_grad_norm=job.training.max_grad_norm,
                max_not_finite=0,
                callback=stopwatch,
                stop_if_cancelled=lambda: None,
            )
            return stopwatch.times, samples_per_step, _peak_gb(prepared.device)


def bench_preprocessing(
    variants: Mapping[str, PreprocessJob], *, rounds: int, on_round: Callable[[str], None]
) -> list[Speed]:
    """Time preprocessing of the same dataset by each variant, model loading included. The tensors are discarded."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    samples = dict.fromkeys(variants, 0)
    for turn in range(rounds):
        for name, job in variants.items():
            on_round(f"round {turn + 1} of {rounds}: {name}")
            with TemporaryDirectory() as folder:
                start = time.perf_counter()
                temporary_job = job.model_copy(update={"out": Path(folder) / "tensors"})
                result = preprocess_job(temporary_job, _SilentContext(Path(folder)))
                times[name].append(time.perf_counter() - start)
            samples[name] = result["ready"]
    return _compare(times, samples, dict.fromkeys(variants))


def _compare(
    times: Mapping[str, Sequence[float]], samples: Mapping[str, int], peaks: Mapping[str, float | None]
) -> list[Speed]:
    medians = {name: statistics.median(values) for name, values in times.items()}
    per_hour = {name: 3600 * samples[name] / medians[name] for name in times}
    first = next(iter(per_hour.values()))
    return [
        Speed(name, medians[name], _spread(values), per_hour[name], per_hour[name] / first, peaks[name])
        for name, values in times.items()
    ]


def _spread(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
