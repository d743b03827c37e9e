"""What to change when a run will not fit, in the order in which it costs least.

Importing this does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from acestep.training.memory import Estimate, estimate
from acestep.training.memory_spec import FRAMES_PER_S, MemorySpec
from acestep.training.optimizers import OPTIMIZERS

_CROPS = (6000, 4500, 3000, 2250, 1500, 1000, 750)  # frames; below half a minute a song is hardly one
_CHECKPOINTING = (4, 3, 2, 1)
_LEAST_RANK = 8
_BASES = ("fp32", "bf16", "int8", "nf4")  # from the largest
_OPTIMIZERS = ("adamw8bit", "adafactor")
_PACKED = ("int8", "nf4", "adamw8bit")  # bitsandbytes has no kernels for Apple's devices
_WORTH = 0.1  # of what is missing; a change that saves less is not worth telling


@dataclass(frozen=True, slots=True)
class Advice:
    """One change.

    Attributes:
        text: the change in words.
        spec: the run after this change and those before it.
        alone: the peak with this change and no other; together: with those before it as well.
    """

    text: str
    spec: MemorySpec
    alone: Estimate
    together: Estimate


def advise(spec: MemorySpec, free: float) -> list[Advice]:
    """Changes, one after the other, until the run fits into ``free`` bytes or nothing is left to change.

    Empty if it fits as it is. Of several strengths of a change the mildest that is enough is taken, else the strongest.
    """
    found: list[Advice] = []
    current, before = spec, estimate(spec)
    for change in (_crop, _checkpointing, _batch, _base, _rank, _optimizer):
        if before.fits(free):
            break
        options = [(text, changed, estimate(changed)) for text, changed in change(current)]
        if not options or before.total - options[-1][2].total < _WORTH * (before.total - free):
            continue
        text, current, before = next((option for option in options if option[2].fits(free)), options[-1])
        alone = next(estimate(changed) for told, changed in change(spec) if told == text)
        found.append(Advice(text, current, alone, before))
    return found


Options = Iterator[tuple[str, MemorySpec]]  # from the mildest to the strongest


def _crop(spec: MemorySpec) -> Options:
    for frames in _CROPS:
        if frames < spec.frames:
            yield (
                f"crop songs to {frames / FRAMES_PER_S:g} s (max_latent_length={frames})",
                replace(spec, frames=frames),
            )


def _checkpointing(spec: MemorySpec) -> Options:
    for every in _CHECKPOINTING:
        if not spec.checkpoint_every or every < spec.checkpoint_every:
            name = "every layer" if every == 1 else f"every {every}. layer"
            settings = f"gradient_checkpointing=true, gradient_checkpointing_every={every}"
            yield f"compute {name} twice ({settings})", replace(spec, checkpoint_every=every)


def _batch(spec: MemorySpec) -> Options:
    """The songs of a step stay as many."""
    together = spec.batch_size * spec.accumulation
    for size in range(spec.batch_size - 1, 0, -1):
        if together % size == 0:
            gathered = together // size
            text = f"take {size} at a time (batch_size={size}, gradient_accumulation_steps={gathered})"
            yield text, replace(spec, batch_size=size, accumulation=gathered)


def _base(spec: MemorySpec) -> Options:
    known = spec.base if spec.base in _BASES else "bf16"
    for base in _BASES[_BASES.index(known) + 1 :]:
        if not (base in _PACKED and spec.device == "mps"):
            compute = base if base == "bf16" else spec.compute
            setting = "mixed_precision" if base == "bf16" else "base_precision"
            yield f"keep the frozen model in {base} ({setting}={base})", replace(spec, base=base, compute=compute)


def _rank(spec: MemorySpec) -> Options:
    rank = getattr(spec.adapter, "r", 0) // 2  # LoKr has none, and is small in any case
    while rank >= _LEAST_RANK:
        yield f"lower the rank to {rank} (r={rank})", replace(spec, adapter=spec.adapter.model_copy(update={"r": rank}))
        rank //= 2


def _optimizer(spec: MemorySpec) -> Options:
    smaller = _OPTIMIZERS[_OPTIMIZERS.index(spec.optimizer) + 1 :] if spec.optimizer in _OPTIMIZERS else _OPTIMIZERS
    for name in smaller:
        if not (name in _PACKED and spec.device == "mps"):
            yield f"use {OPTIMIZERS[name].label} (optimizer_type={name})", replace(spec, optimizer=name)
