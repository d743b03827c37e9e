"""The training loop, whole, in reading order. What varies is passed in; nothing is looked up.

One order: cancelled? - accumulate - clip - finite? - step - report - save. The device is waited for once a step.
Several devices share the songs of each step: each knows the losses of all and so decides alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from acestep.core.errors import LossNotFinite
from acestep.training.data import TrainingStep
from acestep.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from acestep.training.flow_matching import Batch
from acestep.training.state.random_state import RandomState

# Fields whose key in state.json differs from their name.
_STATE_KEYS = {"between_steps": "at_border", "samples_done": "songs"}


@dataclass(slots=True)
class Progress:
    """Where a run stands, at a border between two steps. All of it is part of the training state."""

    step: int = 0  # optimizer steps behind us, also those that took no weight along
    epoch: int = 0  # epochs behind us
    samples_done: int = 0  # songs behind us in the epoch under way
    loss_sum: float = 0.0  # over those of them that counted
    loss_count: int = 0
    epoch_losses: list[float] = field(default_factory=list)
    not_finite: int = 0  # songs and steps left out because of NaN or infinity, in all
    not_finite_in_a_row: int = 0  # of these, since the last good step
    between_steps: bool = True  # False while the weights move: then there is nothing whole to save

    @property
    def epoch_loss(self) -> float:
        """Mean over the songs of the epoch under way; NaN if none counted."""
        return self.loss_sum / self.loss_count if self.loss_count else math.nan

    def take(self, step: TrainingStep, losses: Sequence[float]) -> None:
        """A step is done; ``losses`` are those of its songs that counted."""
        self.step += 1
        self.samples_done += step.num_samples
        self.loss_sum += sum(losses)
        self.loss_count += len(losses)

    def end_epoch(self) -> float:
        """Begin the next epoch; gives the loss of the one that ended."""
        loss = self.epoch_loss
        self.epoch_losses.append(loss)
        self.epoch, self.samples_done, self.loss_sum, self.loss_count = self.epoch + 1, 0, 0.0, 0
        return loss

    def state(self) -> dict[str, Any]:
        """The fields under the names that saved runs have."""
        return {_STATE_KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        return cls(**{f.name: state[_STATE_KEYS.get(f.name, f.name)] for f in fields(cls)})


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did. Losses are means over songs, NaN if none counted."""

    loss: float
    lr: float
    grad_norm: float
    epoch_loss: float | None  # of the epoch that this step ended


class Fabric(Protocol):
    """What this loop asks of lightning.fabric.Fabric."""

    @property
    def strategy(self) -> Any: ...
    def backward(self, tensor: Tensor) -> None: ...
    def no_backward_sync(self, module: Any) -> AbstractContextManager[Any]: ...
    def clip_gradients(
        self, module: Any, optimizer: Any, *, max_norm: float, error_if_nonfinite: bool
    ) -> Tensor | None: ...


class Callback(Protocol):
    """Who is told how it goes; saves, measures and tracks the best."""

    def after_step(self, report: StepReport) -> bool:
        """At each border between two steps, everything being consistent. True ends the run."""


def train(
    *,
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    lr_at: Callable[[int], float],
    steps: Iterable[TrainingStep],
    make_batch: Callable[[list[int], int], Batch],
    progress: Progress,
    random: RandomState,
    max_grad_norm: float,
    max_not_finite: int,
    callback: Callback,
    stop_if_cancelled: Callable[[], None],
    processes: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Take the ``steps``. ``batch_of(songs, epoch)`` makes a micro-batch, on the device.

    The processes of ``team`` share the micro-batches of each step, whose gradient is the mean over all of its songs.

    A song whose loss is not finite is left out of its step as if it were not there; so is a step whose gradient
    is not finite. ``max_not_finite`` of them without a good step between them end the run; 0 goes on for ever.

    Raises:
        JobCancelled: from ``stop_if_cancelled``, which is asked before each micro-batch.
        LossNotFinite: with the weights, the optimizer and ``progress`` as they were after the last good step.
    """
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = lr_at(progress.step)
        songs = step.micro_batches
        losses: list[float] = []
        grad_norm = math.nan
        while songs:
            batches = _each(processes.shard(songs), step.epoch, make_batch, stop_if_cancelled)
            found = _accumulate(fabric, model, batches, sum(map(len, songs)), processes)
            losses, grad_norm = clip_and_gather(fabric, model, optimizer, found, len(songs), max_grad_norm, processes)
            if all(map(math.isfinite, (*losses, grad_norm))):
                break
            songs = _without_not_finite(songs, losses, progress, overflowed=_discard(fabric, optimizer))
            if 0 < max_not_finite <= progress.not_finite_in_a_row:
                raise _not_finite(progress, step)
            random.restore()
        else:
            losses, grad_norm = [], math.nan
        progress.between_steps = False
        if losses:
            optimizer.step()
            progress.not_finite_in_a_row = 0
        optimizer.zero_grad(set_to_none=True)
        progress.take(step, losses)
        epoch_loss = progress.end_epoch() if step.ends_epoch else None
        random.capture()
        progress.between_steps = True
        mean = sum(losses) / len(losses) if losses else math.nan
        if callback.after_step(StepReport(mean, optimizer.param_groups[0]["lr"], grad_norm, epoch_loss)):
            return


def _each(
    songs: list[tuple[list[int], bool]],
    epoch: int,
    make_batch: Callable[[list[int], int], Batch],
    stop_if_cancelled: Callable[[], None],
) -> Iterator[tuple[Batch, bool]]:
    for micro_batch, counts in songs:
        stop_if_cancelled()
        yield make_batch(micro_batch, epoch), counts


def _accumulate(
    fabric: Fabric, model: nn.Module, batches: Iterable[tuple[Batch, bool]], num_samples: int, processes: ProcessGroup
) -> list[Tensor]:
    """Leave this device's part of the gradient of the mean loss in ``.grad``; gives the losses of its micro-batches.

    ``num_songs`` of all devices is known beforehand, so a short last batch and a short last step count right. Fabric
    takes the mean over the devices, hence their number. Micro-batches that do not count only keep them in step.
    """
    found: list[Tensor] = []
    with fabric.no_backward_sync(model):
        for batch, counts in batches:
            losses = model(batch)  # [B]
            fabric.backward(losses.sum() * (processes.world_size * counts) / num_samples)
            found.append(losses.detach())
    processes.all_gather(None)  # nobody waits for the gradient of one that could not finish it
    return found


def clip_and_gather(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    found: list[Tensor],
    count: int,
    max_grad_norm: float,
    processes: ProcessGroup,
) -> tuple[list[float], float]:
    """The loss of each song of the step and the norm of its gradient, which is left whole and clipped in ``.grad``."""
    if processes.world_size > 1:
        with processes.requires_peers():
            fabric.backward(model(None))
    norm = fabric.clip_gradients(model, optimizer, max_norm=max_grad_norm, error_if_nonfinite=False)
    assert norm is not None
    *values, grad_norm = torch.cat([*found, norm.reshape(1)]).tolist()  # waits for the device
    here = iter(values)
    by_batch = processes.gather([[next(here) for _ in losses] for losses in found], count)
    return [loss for losses in by_batch for loss in losses], grad_norm


def _discard(fabric: Fabric, optimizer: torch.optim.Optimizer) -> bool:
    """Forget the gradients. True if a loss scale (fp16) may have made them overflow: it is smaller now."""
    optimizer.zero_grad(set_to_none=True)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is None:
        return False
    before = scaler.get_scale()
    scaler.update()
    return bool(before > 1 and scaler.get_scale() < before)


def _without_not_finite(
    songs: list[list[int]], losses: list[float], progress: Progress, *, overflowed: bool
) -> list[list[int]]:
    """What is left to try of a step: its finite songs, or, if only the gradient was not finite, nothing."""
    finite = dict(zip([song for micro_batch in songs for song in micro_batch], map(math.isfinite, losses), strict=True))
    bad = len(losses) - sum(finite.values())
    if not bad and overflowed:
        return songs
    progress.not_finite += max(bad, 1)
    progress.not_finite_in_a_row += max(bad, 1)
    left = [[song for song in micro_batch if finite[song]] for micro_batch in songs] if bad else []
    return [micro_batch for micro_batch in left if micro_batch]


def _not_finite(progress: Progress, step: TrainingStep) -> LossNotFinite:
    count, total = progress.not_finite_in_a_row, progress.not_finite
    return LossNotFinite(
        f"the loss or its gradient was not a finite number {count} times in a row ({total} in all), "
        f"lastly in epoch {step.epoch + 1}, step {progress.step + 1}",
        hint="Usual causes: a learning rate that is too high (try a third of it), half precision on a device that "
        "is poor at it (try mixed_precision fp32), or damaged tensors (preprocess again).",
    )
