"""Throughput of training: optimizer steps of each variant, exactly as a run computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from loguru import logger

from acestep.benchmark.compare import PLAIN, Round, Speed, alternate
from acestep.benchmark.plain_step import require_comparable, train_plainly
from acestep.benchmark.silent_context import SilentContext
from acestep.benchmark.step_meter import StepMeter
from acestep.core.errors import ConfigError
from acestep.models.memory_limit import limit_memory
from acestep.training.configs import TrainJob
from acestep.training.data import TrainingStep
from acestep.training.loop import train
from acestep.training.prepare import Prepared, prepare
from acestep.training.session import Session
from acestep.training.state.random_state import seeded_generators


def bench_training(
    variants: Mapping[str, TrainJob], *, steps: int, rounds: int, on_round: Callable[[str], None]
) -> list[Speed]:
    """Time optimizer steps of each variant. Nothing is saved. The variant ``PLAIN`` is computed by ``plain_step``.

    Raises:
        ConfigError: the dataset is smaller than one optimizer step, or ``PLAIN`` cannot compute these settings.
            Others: those of ``train_job``.
    """
    if PLAIN in variants:
        require_comparable(variants[PLAIN])

    def measure(name: str, job: TrainJob, is_first_round: bool) -> Round:
        return _time_steps(job, steps, plain=name == PLAIN, count=is_first_round)

    return alternate(variants, measure, rounds=rounds, on_round=on_round)


def _time_steps(job: TrainJob, steps: int, *, plain: bool, count: bool) -> Round:
    with TemporaryDirectory() as folder:
        temporary_job = job.model_copy(update={"out": Path(folder) / "run", "resume": None})
        temporary_job.training = job.training.model_copy(update={"max_epochs": 100_000, "max_steps": 0})
        context = SilentContext(Path(folder))
        prepared = prepare(temporary_job, context)
        songs = _songs_per_step(prepared)
        limit_memory(str(prepared.device), logger.info)
        with seeded_generators(job.training.seed, prepared.device):
            meter = StepMeter(
                prepared.device, steps, micro_batches=job.training.gradient_accumulation_steps, count=count
            )
            if plain:
                train_plainly(prepared, _full_steps(prepared), meter)
            else:
                _train(prepared, context, meter)
            return meter.measured(songs, prepared.dtype)


def _songs_per_step(prepared: Prepared) -> int:
    songs = prepared.step_plan.samples_per_step
    if songs > len(prepared.samples):
        raise ConfigError(
            [f"{len(prepared.samples)} samples do not fill an optimizer step of {songs}"],
            hint="Lower batch_size or gradient_accumulation_steps, or use a larger dataset.",
        )
    return songs


def _full_steps(prepared: Prepared) -> Iterator[TrainingStep]:
    plan = prepared.step_plan
    return (step for step in plan.steps() if step.num_samples == plan.samples_per_step)


def _train(prepared: Prepared, context: SilentContext, meter: StepMeter) -> None:
    """The loop of a run, until the meter ends it."""
    with closing(Session(prepared, context.emit)) as session, session.prefetching(_full_steps(prepared)), meter:
        train(
            fabric=session.fabric,
            model=session.model,
            optimizer=session.optimizer,
            lr_at=lambda step: prepared.lr,
            steps=_full_steps(prepared),
            make_batch=meter.make_batch(session.make_batch),
            progress=session.progress,
            random=session.random,
            max_grad_norm=prepared.training.max_grad_norm,
            max_not_finite=0,
            callback=meter,
            stop_if_cancelled=lambda: None,
        )
