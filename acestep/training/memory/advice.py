"""Suggests settings to change when a run does not fit into memory, in the order in which they cost least.

Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from acestep.training.memory.automatic import CHECKPOINTING, choose, nth_layer
from acestep.training.memory.estimate import Estimate, estimate
from acestep.training.memory.spec import FRAMES_PER_S, PACKED, MemorySpec
from acestep.training.optim.optimizers import OPTIMIZERS

_CROPS = (6000, 4500, 3000, 2250, 1500, 1000, 750)  # frames; below 30 s little of a song's structure is left
_MIN_RANK = 8
_BASES = ("fp32", "bf16", "int8", "nf4")  # from the largest
_MIN_SAVING = 0.1  # of the missing memory; a change that saves less is not suggested


@dataclass(frozen=True, slots=True)
class Advice:
    """One suggested change.

    Attributes:
        description: a description of the change, without the settings.
        changes: qualified setting name (``training.batch_size``) -> new value.
        spec: the run after this change and those before it, before automatic choices.
        alone: the memory estimate with only this change, after automatic choices.
        together: likewise, with this change and those before it.
    """

    description: str
    changes: dict[str, Any]
    spec: MemorySpec
    alone: Estimate
    together: Estimate

    @property
    def text(self) -> str:
        """The description, followed by the settings in the form of ``--set``."""
        return f"{self.description} ({', '.join(f'{name}={_typed(value)}' for name, value in self.changes.items())})"


@dataclass(frozen=True, slots=True)
class _Option:
    """One strength of a change."""

    description: str
    changes: dict[str, Any]
    spec: MemorySpec


_Options = Iterator[_Option]  # from the mildest to the strongest


def advise(spec: MemorySpec, free: float) -> list[Advice]:
    """Changes to apply one after the other until the run fits into ``free`` bytes or nothing is left to change.

    What the program chooses by itself is chosen anew for each of them. Empty if the run fits as it is. Of several
    strengths of a change the mildest that is enough is chosen, else the strongest.
    """
    found: list[Advice] = []

    def need_of(run: MemorySpec) -> Estimate:
        return estimate(choose(run, free).spec)

    current, before = spec, need_of(spec)
    for change in (_crop, _checkpointing, _batch, _base, _rank, _optimizer):
        if before.fits(free):
            break
        options = [(option, need_of(option.spec)) for option in change(current)]
        if not options or before.total - options[-1][1].total < _MIN_SAVING * (before.total - free):
            continue
        chosen, before = next(((option, need) for option, need in options if need.fits(free)), options[-1])
        alone = next(need_of(option.spec) for option in change(spec) if option.changes == chosen.changes)
        found.append(Advice(chosen.description, chosen.changes, chosen.spec, alone, before))
        current = chosen.spec
    return found


def _typed(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _crop(spec: MemorySpec) -> _Options:
    for frames in _CROPS:
        if frames < spec.frames:
            description = f"crop songs to {frames / FRAMES_PER_S:g} s"
            yield _Option(description, {"training.max_latent_length": frames}, replace(spec, frames=frames))


def _checkpointing(spec: MemorySpec) -> _Options:
    if spec.auto_checkpointing or spec.offload:
        return
    for every in CHECKPOINTING:
        if not spec.checkpoint_every or every < spec.checkpoint_every:
            description = f"recompute the activations of {nth_layer(every)}"
            changes = {"training.gradient_checkpointing": "on", "training.gradient_checkpointing_every": every}
            yield _Option(description, changes, replace(spec, checkpoint_every=every))
    if spec.has_own_memory and not spec.sharded:
        description = "recompute the activations of every layer and keep its input in CPU memory"
        changes = {"training.gradient_checkpointing": "offload"}
        yield _Option(description, changes, replace(spec, checkpoint_every=1, offload=True))


def _batch(spec: MemorySpec) -> _Options:
    """The number of samples per optimizer step stays the same."""
    samples_per_step = spec.batch_size * spec.accumulation
    for size in range(spec.batch_size - 1, 0, -1):
        if samples_per_step % size == 0:
            accumulation = samples_per_step // size
            changes = {"training.batch_size": size, "training.gradient_accumulation_steps": accumulation}
            changed = replace(spec, batch_size=size, accumulation=accumulation)
            yield _Option(f"lower the batch size to {size}", changes, changed)


def _base(spec: MemorySpec) -> _Options:
    known = spec.base if spec.base in _BASES else "bf16"
    for base in _BASES[_BASES.index(known) + 1 :]:
        if spec.may_quantize if base in PACKED else spec.bf16:
            compute = base if base == "bf16" else spec.compute
            setting = "training.mixed_precision" if base == "bf16" else "training.base_precision"
            changed = replace(spec, base=base, compute=compute, auto_base=False)
            yield _Option(f"keep the frozen model in {base}", {setting: base}, changed)


def _rank(spec: MemorySpec) -> _Options:
    rank = getattr(spec.adapter, "r", 0) // 2  # LoKr has no rank, and is small in any case
    while rank >= _MIN_RANK:
        changed = replace(spec, adapter=spec.adapter.model_copy(update={"r": rank}))
        yield _Option(f"lower the rank to {rank}", {f"{spec.kind}.r": rank}, changed)
        rank //= 2


def _optimizer(spec: MemorySpec) -> _Options:
    smaller = [entry for entry in OPTIMIZERS if entry.low_memory]
    if OPTIMIZERS[spec.optimizer] in smaller:
        smaller = smaller[smaller.index(OPTIMIZERS[spec.optimizer]) + 1 :]
    for entry in smaller:
        if entry.state_bytes and spec.device not in entry.unsupported:
            changed = replace(spec, optimizer=entry.name)
            yield _Option(f"use {entry.label}", {"training.optimizer_type": entry.name}, changed)
