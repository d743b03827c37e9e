"""What an adapter adds to a weight, whatever kind it is, and the base weights it adds to.

``parts`` are one module's folded tensors (adapters.base), here and in all of this folder.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from acestep.adapters.base import StoredAdapter
from acestep.adapters.configs import ADAPTERS
from acestep.adapters.files import method
from acestep.core.errors import AdapterError, CheckpointError, ModelMismatch
from acestep.exporting.safetensors_stream import read_tensor
from acestep.models.checkpoint import Checkpoint, find_checkpoint, tensor_infos

ModuleTensors = Mapping[str, Tensor]
DIFF = "diff"  # the whole addition as it is

_DECODER = "decoder."
_LINEAR = ("lora_B", "lokr_w1", "lokr_w1_a", "hada_w1_a")  # an addition grows as one of these does
_NOTHING = torch.tensor(math.nan)  # stands for a weight: whatever looks at it becomes NaN too


class BaseWeights:
    """The decoder weights of a checkpoint by original module name, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError."""
        self.checkpoint = checkpoint
        self._stored = tensor_infos(checkpoint, _DECODER)

    def __getitem__(self, module: str) -> Tensor:
        """[out, in] or [out, in, kernel] fp32."""
        return read_tensor(self._stored[f"{_DECODER}{module}.weight"]).float()

    def shape(self, module: str) -> tuple[int, ...] | None:
        """None where the decoder has no such module."""
        stored = self._stored.get(f"{_DECODER}{module}.weight")
        return stored.shape if stored else None

    def check_compatible(self, adapter: StoredAdapter) -> None:
        """Raises ModelMismatch, naming both models, if ``adapter`` was made for another one."""
        family, hint = self.checkpoint.family, "Choose the model it was trained on."
        here = f"{self.checkpoint.name} is of the {family} family"
        if adapter.card.family not in ("", family):
            raise ModelMismatch(f"{adapter.file} was made for {adapter.card.name}, {here}", hint=hint)
        for name, parts in adapter.modules.items():
            wanted, shape = self.shape(name), method(adapter.kind).delta_shape(parts)
            if wanted is None or shape != (wanted[0], math.prod(wanted[1:])):
                there = f"has {list(wanted)}" if wanted else "has no such module"
                raise ModelMismatch(f"{adapter.file}: {name} is {list(shape)}; {here} and {there}", hint=hint)


def find_base(adapter: StoredAdapter, checkpoint: str | Path | None, root: Path | None = None) -> BaseWeights | None:
    """The weights of ``checkpoint``, or of the one that the adapter names; None where that is not on this disk.

    Raises:
        CheckpointError: ``checkpoint`` was asked for and is not there.
        ModelMismatch: the adapter was made for another model than ``checkpoint``.
    """
    if checkpoint is None and not adapter.card.base_model:
        return None
    try:
        base = BaseWeights(find_checkpoint(checkpoint or adapter.card.base_model, root))
    except CheckpointError:
        if checkpoint is None:
            return None
        raise
    base.check_compatible(adapter)
    return base


def delta(parts: ModuleTensors, base: Tensor | None = None) -> Tensor:
    """[out, in] fp32 what ``parts`` add to the weight ``base`` at strength 1; a kernel counts into ``in``.

    Raises:
        AdapterError: the addition depends on the weight (DoRA) and there is none.
    """
    if DIFF in parts:
        return parts[DIFF].float().flatten(1)
    kind, whole = method(detect_kind(parts)), {name: value.float() for name, value in parts.items()}
    weight = _NOTHING.expand(kind.delta_shape(whole)) if base is None else base.float().flatten(1)
    found = kind.delta(whole, weight).flatten(1)
    if base is None and not torch.isfinite(found[0]).all():
        raise AdapterError(
            "what this adapter adds depends on the base model, which is not here", hint="Name it with --checkpoint."
        )
    return found


def detect_kind(parts: ModuleTensors) -> str:
    """The name in ``ADAPTERS`` of what has these parts. Raises AdapterError."""
    keys = [f"module.{part}.weight" for part in parts]
    for entry in ADAPTERS:
        if method(entry.name).recognises(keys):
            return entry.name
    raise AdapterError(f"no kind of adapter has {', '.join(sorted(parts))}")


def needs_base(adapter: StoredAdapter) -> bool:
    """Whether what it adds cannot be told without the base model."""
    try:
        delta(next(iter(adapter.modules.values())))
    except AdapterError:
        return True
    return False


def scale_adapter(adapter: StoredAdapter, strength: float) -> StoredAdapter | None:
    """The adapter of the same kind that adds ``strength`` times as much; None where its kind cannot (DoRA)."""
    if strength == 1.0:
        return adapter
    if needs_base(adapter):
        return None
    weights = dict(adapter.weights)
    for name, parts in adapter.modules.items():
        part = next((part for part in _LINEAR if part in parts), None)
        if part is None:
            return None
        key = next(key for key in (f"{name}.{part}", f"{name}.{part}.weight") if key in weights)
        weights[key] = weights[key] * strength
    return dataclasses.replace(adapter, weights=weights)
