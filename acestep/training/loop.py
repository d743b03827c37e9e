"""The training loop. Everything that varies is passed in as an argument.

Each step: check for a stop request, accumulate gradients, clip, skip non-finite values, optimizer step, callback.
The host waits for the device once per step. Several devices share the samples of a step; each one gathers all
losses, so that all make the same decisions.
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
from acestep.models.device import not_finite_hint
from acestep.models.process_group import SINGLE_PROCESS, ProcessGroup
from acestep.training.data import TrainingStep
from acestep.training.flow_matching import Batch
from acestep.training.state.random_state import RandomState

# Fields whose key in state.json differs from their name.
_STATE_KEYS = {"between_steps": "at_border", "samples_done": "songs"}


@dataclass(slots=True)
class Progress:
    """Position and running averages of a run between two steps. All of it is saved in the training state."""

    step: int = 0  # completed optimizer steps, skipped ones included
    epoch: int = 0  # completed epochs
    samples_done: int = 0  # samples used so far in the current epoch
    loss_sum: float = 0.0  # over the samples with a finite loss
    loss_count: int = 0
    epoch_losses: list[float] = field(default_factory=list)
    not_finite: int = 0  # samples and steps skipped because of NaN or infinity
    not_finite_in_a_row: int = 0  # of these, since the last good step
    between_steps: bool = True  # False during an optimizer step: the state is inconsistent and cannot be saved

    @property
    def epoch_loss(self) -> float:
        """Mean over the samples of the current epoch; NaN if no loss was finite."""
        return self.loss_sum / self.loss_count if self.loss_count else math.nan

    def take(self, step: TrainingStep, losses: Sequence[float]) -> None:
        """Count a finished step; ``losses`` are the finite losses of its samples."""
        self.step += 1
        self.samples_done += step.num_samples
        self.loss_sum += sum(losses)
        self.loss_count += len(losses)

    def end_epoch(self) -> float:
        """Start the next epoch; gives the mean loss of the finished one."""
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
    """Metrics of one step. Losses are means over samples, NaN if none was finite."""

    loss: float
    lr: float
    grad_norm: float
    epoch_loss: float | None  # set when this step ends an epoch


class Fabric(Protocol):
    """The part of lightning.fabric.Fabric that the loop uses."""

    @property
    def strategy(self) -> Any: ...
    def backward(self, tensor: Tensor) -> None: ...
    def no_backward_sync(self, module: Any) -> AbstractContextManager[Any]: ...
    def clip_gradients(
        self, module: Any, optimizer: Any, *, max_norm: float, error_if_nonfinite: bool
    ) -> Tensor | None: ...


class Callback(Protocol):
    """Called after every step; logs, evaluates, saves and tracks the best model."""

    def after_step(self, report: StepReport) -> bool:
        """Called between two steps, when the state is consistent. True ends the run."""


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
    dtype: torch.dtype = torch.float32,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Run the ``steps``. ``make_batch(indices, epoch)`` gives a micro-batch on the device.

    The ``processes`` share the micro-batches of each step; its gradient is the mean over all of its samples.

    A sample with a non-finite loss is dropped from its step, and a step with a non-finite gradient is skipped.
    ``max_not_finite`` of them in a row end the run; 0 never does. ``dtype`` is that of the forward pass.

    Raises:
        JobCancelled: from ``stop_if_cancelled``, which is called before each micro-batch.
        LossNotFinite: weights, optimizer and ``progress`` are as after the last good step.
    """
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = lr_at(progress.step)
        micro_batches = step.micro_batches
        losses: list[float] = []
        grad_norm = math.nan
        while micro_batches:
            batches = _each(processes.shard(micro_batches), step.epoch, make_batch, stop_if_cancelled)
            found = _accumulate(fabric, model, batches, sum(map(len, micro_batches)), processes)
            losses, grad_norm = clip_and_gather(
                fabric, model, optimizer, found, len(micro_batches), max_grad_norm, processes
            )
            if all(map(math.isfinite, (*losses, grad_norm))):
                break
            micro_batches = _without_not_finite(micro_batches, losses, progress, overflowed=_discard(fabric, optimizer))
            if 0 < max_not_finite <= progress.not_finite_in_a_row:
                raise _not_finite(progress, step, dtype)
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
    micro_batches: list[tuple[list[int], bool]],
    epoch: int,
    make_batch: Callable[[list[int], int], Batch],
    stop_if_cancelled: Callable[[], None],
) -> Iterator[tuple[Batch, bool]]:
    for micro_batch, counts in micro_batches:
        stop_if_cancelled()
        yield make_batch(micro_batch, epoch), counts


def _accumulate(
    fabric: Fabric, model: nn.Module, batches: Iterable[tuple[Batch, bool]], num_samples: int, processes: ProcessGroup
) -> list[Tensor]:
    """Accumulate this device's part of the gradient of the mean loss in ``.grad``; gives its micro-batch losses.

    Dividing by ``num_samples`` of all devices weights short last batches and steps correctly; Fabric averages over
    devices, hence the factor ``world_size``. Micro-batches with a count of False only keep the devices in step.
    """
    found: list[Tensor] = []
    with fabric.no_backward_sync(model):
        for batch, counts in batches:
            losses = model(batch)  # [B]
            fabric.backward(losses.sum() * (processes.world_size * counts) / num_samples)
            found.append(losses.detach())
    processes.all_gather(None)  # raises here if another process failed, before the gradients are reduced
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
    """Reduce and clip the gradient; gives the losses of all samples of the step and the gradient norm."""
    if processes.world_size > 1:
        with processes.requires_peers():
            fabric.backward(model(None))
    norm = fabric.clip_gradients(model, optimizer, max_norm=max_grad_norm, error_if_nonfinite=False)
    assert norm is not None
    *values, grad_norm = torch.cat([*found, norm.reshape(1)]).tolist()  # the one host-device synchronization of a step
    here = iter(values)
    by_batch = processes.gather([[next(here) for _ in losses] for losses in found], count)
    return [loss for losses in by_batch for loss in losses], grad_norm


def _discard(fabric: Fabric, optimizer: torch.optim.Optimizer) -> bool:
    """Drop the gradients. True if an fp16 loss scale may have caused the overflow; it has been lowered."""
    optimizer.zero_grad(set_to_none=True)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is None:
        return False
    before = scaler.get_scale()
    scaler.update()
    return bool(before > 1 and scaler.get_scale() < before)


def _without_not_finite(
    micro_batches: list[list[int]], losses: list[float], progress: Progress, *, overflowed: bool
) -> list[list[int]]:
    """The micro-batches to retry a step with: its finite samples, or none if only the gradient was not finite."""
    indices = [index for micro_batch in micro_batches for index in micro_batch]
    finite = dict(zip(indices, map(math.isfinite, losses), strict=True))
    bad = len(losses) - sum(finite.values())
    if not bad and overflowed:
        return micro_batches
    progress.not_finite += max(bad, 1)
    progress.not_finite_in_a_row += max(bad, 1)
    left = [[index for index in micro_batch if finite[index]] for micro_batch in micro_batches] if bad else []
    return [micro_batch for micro_batch in left if micro_batch]


def not_finite_loss_hint(dtype: torch.dtype) -> str:
    """What to do about losses that are not finite, in a run that computes in ``dtype``."""
    others = "If the learning rate is too high, try a third of it. If the tensors are damaged, preprocess again."
    return not_finite_hint(dtype, "--set mixed_precision=fp32 (Precision)", others)


def _not_finite(progress: Progress, step: TrainingStep, dtype: torch.dtype) -> LossNotFinite:
    count, total = progress.not_finite_in_a_row, progress.not_finite
    return LossNotFinite(
        f"the loss or its gradient was not finite {count} times in a row ({total} in total), "
        f"last in epoch {step.epoch + 1}, step {progress.step + 1}, computed in {str(dtype).removeprefix('torch.')}",
        hint=not_finite_loss_hint(dtype),
        subject="fp16" if dtype == torch.float16 else "",
    )
