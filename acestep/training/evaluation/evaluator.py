"""Two figures that can be compared over a run, and between runs: fit loss and validation loss.

The training loss jumps with the times and the noise that happen to be drawn. Here each song meets the same noise
at the same times every time, whole text, no dropout, so what changes is the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from acestep.training.data import (
    TrainingSample,
    centre_start,
    collate,
    generator_for,
    make_example,
    move,
    sorted_by_hash,
)
from acestep.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from acestep.training.flow_matching import Batch, timestep_quantiles

NUM_TIMES = 8  # equally likely times under the law that is trained on
MAX_SONGS = 8  # of each kind: more would cost more than they tell
_TOGETHER = 4  # points of one song in a forward pass; without gradients that is less than a training step holds


@dataclass(frozen=True, slots=True)
class Metrics:
    """Mean loss over songs and times. ``validation_loss`` is None without held-out songs."""

    fit_loss: float
    validation_loss: float | None


class Evaluator:
    """The grid that a run is measured on."""

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
        self._songs = sorted_by_hash(samples, seed)[:MAX_SONGS]
        self._held_out = sorted_by_hash(held_out, seed)[:MAX_SONGS]
        self._seed, self._max_frames = seed, max_frames
        self._times: list[float] = timestep_quantiles(NUM_TIMES, mu=mu, sigma=sigma).tolist()

    @property
    def grid(self) -> list[float]:
        """What figures must share to be comparable, beside the songs."""
        return [self._max_frames, *self._times]

    @torch.no_grad()
    def evaluate(
        self,
        model: nn.Module,
        device: torch.device,
        *,
        stop_if_cancelled: Callable[[], None],
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> Metrics:
        """``model`` answers a batch with its losses [B]. Its mode and all random states are left as they were.

        The processes of ``team`` share the songs and get the same figures.

        Raises:
            JobCancelled: from ``stop_if_cancelled``, which is asked between two songs.
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
        """The fit loss of a model that always answers zero: what a useful adapter must beat."""
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
        """The middle of ``song`` at all times of the grid."""
        generator = generator_for(self._seed, "figures", sample.name)
        start = centre_start(sample.record.target_latents.shape[0], self._max_frames)
        points = [make_example(sample, start, self._max_frames, generator=generator, t=t) for t in self._times]
        for first in range(0, NUM_TIMES, _TOGETHER):
            yield collate(points[first : first + _TOGETHER])
