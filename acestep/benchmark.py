"""How fast a setting is on this machine, against others. All are measured in one go and in turn.

A machine's speed changes while it works, with its heat and with its other work. So the variants take turns for some
rounds, and what counts is the ratio of their medians; a time alone says little.
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

from acestep.core.errors import ConfigError
from acestep.core.events import Event
from acestep.core.jobs import Context
from acestep.preprocessing.builder import preprocess_job
from acestep.preprocessing.configs import PreprocessJob
from acestep.training.configs import TrainJob
from acestep.training.loop import StepReport, train
from acestep.training.prepare import prepare
from acestep.training.session import Session
from acestep.training.state.random_state import seeded_generators

_WARM_UP = 2  # steps that load kernels and caches, and do not count


@dataclass(frozen=True, slots=True)
class Speed:
    """What one variant did."""

    name: str
    median_s: float  # of a step, or of a whole preprocessing
    spread: float  # the middle half of the measurements, as a share of the median
    songs_per_hour: float
    ratio: float  # of songs_per_hour to the first variant's
    peak_gb: float | None  # of the device's memory, where it tells


class _Quiet(Context):
    """Work that nobody watches."""

    def emit(self, event: Event) -> None:
        """Tell nobody."""


class _Stopwatch:
    """The ``Watcher`` of the loop: takes the time of each step, ends it after so many."""

    def __init__(self, steps: int) -> None:
        self._wanted, self._last = steps, time.perf_counter()
        self.times: list[float] = []

    def after_step(self, report: StepReport) -> bool:
        now = time.perf_counter()
        self.times.append(now - self._last)
        self._last = now
        return len(self.times) >= self._wanted


def bench_training(
    variants: Mapping[str, TrainJob], *, steps: int, rounds: int, on_round: Callable[[str], None]
) -> list[Speed]:
    """Steps of each variant, in turn. Nothing of it is kept.

    Raises:
        ConfigError: the songs are too few for so many steps. Others: those of ``train_job``.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    samples = dict.fromkeys(variants, 0)
    peaks: dict[str, float | None] = dict.fromkeys(variants)
    for turn in range(rounds):
        for name, job in variants.items():
            on_round(f"round {turn + 1} of {rounds}: {name}")
            taken, samples[name], peak = _some_steps(job, steps + _WARM_UP)
            times[name] += taken[_WARM_UP:]
            peaks[name] = max(peak, peaks[name] or 0.0) if peak is not None else None
    return _compare(times, samples, peaks)


def _some_steps(job: TrainJob, steps: int) -> tuple[list[float], int, float | None]:
    """Times of the steps, songs of a step, and the peak of the device's memory."""
    with TemporaryDirectory() as folder:
        unwatched = job.model_copy(update={"out": Path(folder) / "run", "resume": None})
        unwatched.training = job.training.model_copy(update={"max_epochs": 100_000, "max_steps": 0})
        context = _Quiet(Path(folder))
        prepared = prepare(unwatched, context)
        samples_per_step = prepared.step_plan.samples_per_step
        if samples_per_step > len(prepared.samples):
            raise ConfigError(
                [f"{len(prepared.samples)} songs do not fill a step of {samples_per_step}"],
                hint="Lower batch_size or gradient_accumulation_steps, or take more songs.",
            )
        _forget_peak(prepared.device)
        with seeded_generators(job.training.seed, prepared.device), closing(Session(prepared, context.emit)) as session:
            watch = _Stopwatch(steps)
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
                callback=watch,
                stop_if_cancelled=lambda: None,
            )
            return watch.times, samples_per_step, _peak_gb(prepared.device)


def bench_preprocessing(
    variants: Mapping[str, PreprocessJob], *, rounds: int, on_round: Callable[[str], None]
) -> list[Speed]:
    """The same songs by each variant, in turn, models loaded anew as a run does. The tensors are thrown away."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    samples = dict.fromkeys(variants, 0)
    for turn in range(rounds):
        for name, job in variants.items():
            on_round(f"round {turn + 1} of {rounds}: {name}")
            with TemporaryDirectory() as folder:
                began = time.perf_counter()
                done = preprocess_job(job.model_copy(update={"out": Path(folder) / "tensors"}), _Quiet(Path(folder)))
                times[name].append(time.perf_counter() - began)
            samples[name] = done["ready"]
    return _compare(times, samples, dict.fromkeys(variants))


def _compare(
    times: Mapping[str, Sequence[float]], samples: Mapping[str, int], peaks: Mapping[str, float | None]
) -> list[Speed]:
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    per_hour = {name: 3600 * samples[name] / medians[name] for name in times}
    first = next(iter(per_hour.values()))
    return [
        Speed(name, medians[name], _spread(taken), per_hour[name], per_hour[name] / first, peaks[name])
        for name, taken in times.items()
    ]


def _spread(taken: Sequence[float]) -> float:
    if len(taken) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(taken, n=4)
    return (high - low) / middle


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak_gb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
