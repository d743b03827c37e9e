"""Two metrics that are comparable over a run and between runs: fit loss and validation loss.

The training loss varies with the random timesteps and noise. Here every sample is evaluated at the same timesteps with
the same noise, the full condition and no dropout, so only the model changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from acestep.models.process_group import SINGLE_PROCESS, ProcessGroup
from acestep.training.data import (
    TrainingSample,
    centre_start,
    collate,
    generator_for,
    make_example,
    move,
    sorted_by_hash,
)
from acestep.training.flow_matching import Batch, timestep_quantiles

NUM_TIMESTEPS = 8  # equally likely timesteps of the training distribution
MAX_SAMPLES = 8  # per split: more cost more time than they add precision
_TIMESTEPS_PER_BATCH = 4  # without gradients this takes less memory than a training step


@dataclass(frozen=True, slots=True)
class Metrics:
    """Mean loss over samples and timesteps. ``validation_loss`` is None without held-out samples."""

    fit_loss: float
    validation_loss: float | None


class Evaluator:
    """Evaluates a model on a fixed grid of samples and timesteps."""

    def __init__(
        self,
        samples: Sequence[TrainingSample],
        held_out: Sequence[TrainingSample],
        *,
        seed: int,
        max_frames: int,
        mu: float,
        sigma: float,
    ) -> None:
        self._songs = sorted_by_hash(samples, seed)[:MAX_SAMPLES]
        self._held_out = sorted_by_hash(held_out, seed)[:MAX_SAMPLES]
        self._seed, self._max_frames = seed, max_frames
        self._timesteps: list[float] = timestep_quantiles(NUM_TIMESTEPS, mu=mu, sigma=sigma).tolist()

    @property
    def num_samples(self) -> int:
        """Samples of one evaluation, held-out ones included."""
        return len(self._songs) + len(self._held_out)

    @property
    def grid(self) -> list[float]:
        """What evaluations must have in common to be comparable, besides the samples."""
        return [self._max_frames, *self._timesteps]

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        stop_if_cancelled: Callable[[], None],
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> Metrics:
        """``model`` maps a batch to its losses [B]. Its mode and all random states are unchanged.

        The ``processes`` share the samples, and all get the same metrics.

        Raises:
            JobCancelled: from ``stop_if_cancelled``, which is called before each sample.
        """
        was_training = model.training
        model.eval()
        try:
            fit = self._mean(self._songs, model, device, stop_if_cancelled, processes)
            held_out = self._mean(self._held_out, model, device, stop_if_cancelled, processes)
        finally:
            model.train(was_training)
        assert fit is not None
        return Metrics(fit, held_out)

    @torch.no_grad()
    def zero_loss(self) -> float:
        """The zero-prediction loss: the fit loss of a model that always predicts zero. An adapter must beat it."""
        losses = [
            (batch.noise - batch.latents).square().mean() for sample in self._songs for batch in self._batches(sample)
        ]
        return float(torch.stack(losses).mean())

    def _mean(
        self,
        samples: list[TrainingSample],
        model: nn.Module,
        device: torch.device,
        stop_if_cancelled: Callable[[], None],
        processes: ProcessGroup,
    ) -> float | None:
        losses: list[list[float]] = []  # [songs, times]
        for sample, _ in processes.shard(samples):
            stop_if_cancelled()
            losses.append(torch.cat([model(move(batch, device)) for batch in self._batches(sample)]).tolist())
        return float(torch.tensor(processes.gather(losses, len(samples))).mean()) if samples else None

    def _batches(self, sample: TrainingSample) -> Iterator[Batch]:
        """The middle crop of ``sample`` at all timesteps of the grid."""
        generator = generator_for(self._seed, "figures", sample.name)
        crop = sample.record.crop(centre_start(sample.record.num_frames, self._max_frames), self._max_frames)
        points = [make_example(crop, generator=generator, t=t) for t in self._timesteps]
        for first in range(0, NUM_TIMESTEPS, _TIMESTEPS_PER_BATCH):
            yield collate(points[first : first + _TIMESTEPS_PER_BATCH])
