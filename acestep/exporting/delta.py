"""Weight deltas of adapters of any kind, and the base weights that they are added to.

In this package ``parts`` are the tensors of one module by part name, such as ``lora_A`` and ``lora_B``, with the
scaling (alpha / rank) multiplied in.
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
from acestep.adapters.files import adapter_class
from acestep.adapters.other_formats import DIFF
from acestep.core.errors import AdapterError, CheckpointError, ModelMismatch
from acestep.models.checkpoint import Checkpoint, find_checkpoint, tensor_infos
from acestep.models.safetensors_data import read_tensor

ModuleTensors = Mapping[str, Tensor]
_DECODER = "decoder."
_LINEAR = ("lora_B", "lokr_w1", "lokr_w1_a", "hada_w1_a")  # parts that the strength can be multiplied into
_UNKNOWN_WEIGHT = torch.tensor(math.nan)  # placeholder for a base weight: a delta that depends on it becomes NaN


class BaseWeights:
    """The decoder weights of a base model by original module name, loaded lazily."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Read the safetensors headers. Raises CheckpointError."""
        self.checkpoint = checkpoint
        self._stored = tensor_infos(checkpoint, _DECODER)

    def __getitem__(self, module: str) -> Tensor:
        """The weight [out, in] or [out, in, kernel] in fp32."""
        return read_tensor(self._stored[f"{_DECODER}{module}.weight"]).float()

    def shape(self, module: str) -> tuple[int, ...] | None:
        """Shape of the weight, or None if the decoder has no such module."""
        stored = self._stored.get(f"{_DECODER}{module}.weight")
        return stored.shape if stored else None

    def check_compatible(self, adapter: StoredAdapter) -> None:
        """Raise ModelMismatch if ``adapter`` was trained on a model of another family or shape."""
        family, hint = self.checkpoint.family, "Choose the model it was trained on."
        here = f"{self.checkpoint.name} belongs to the {family} family"
        if adapter.metadata.family not in ("", family):
            raise ModelMismatch(f"{adapter.file} was trained for {adapter.metadata.model_name}; {here}", hint=hint)
        for name, parts in adapter.modules.items():
            expected, shape = self.shape(name), adapter_class(adapter.kind).delta_shape(parts)
            if expected is None or shape != (expected[0], math.prod(expected[1:])):
                there = f"expects {list(expected)}" if expected else "has no such module"
                raise ModelMismatch(f"{adapter.file}: {name} has shape {list(shape)}; {here} and {there}", hint=hint)


def find_base(adapter: StoredAdapter, checkpoint: str | Path | None, root: Path | None = None) -> BaseWeights | None:
    """Find the base model of ``adapter``: ``checkpoint``, or the one in its metadata.

    Returns:
        The base weights, or None if the metadata names no model or a model that is not installed.

    Raises:
        CheckpointError: ``checkpoint`` does not exist.
        ModelMismatch: the adapter was trained on another model.
    """
    if checkpoint is None and not adapter.metadata.base_model:
        return None
    try:
        base = BaseWeights(find_checkpoint(checkpoint or adapter.metadata.base_model, root))
    except CheckpointError:
        if checkpoint is None:
            return None
        raise
    base.check_compatible(adapter)
    return base


def delta(parts: ModuleTensors, base: Tensor | None = None, strength: float = 1.0) -> Tensor:
    """The weight delta [out, in] in fp32. The kernel of a convolution is flattened into ``in``.

    Args:
        base: the base weight. Required for DoRA and for LoKr with weight decomposition.
        strength: the strength of the adapter; not every kind is linear in it.

    Raises:
        AdapterError: the delta depends on the base weight, and ``base`` is None.
    """
    if DIFF in parts:
        return strength * parts[DIFF].float().flatten(1)
    kind, tensors = adapter_class(detect_kind(parts)), {name: value.float() for name, value in parts.items()}
    weight = _UNKNOWN_WEIGHT.expand(kind.delta_shape(tensors)) if base is None else base.float().flatten(1)
    found = kind.delta(tensors, weight, strength).flatten(1)
    if base is None and not torch.isfinite(found[0]).all():
        raise AdapterError(
            "the weight delta of this adapter depends on the base model", hint="Set the base model with --checkpoint."
        )
    return found


def detect_kind(parts: ModuleTensors) -> str:
    """The adapter kind (a name in ``ADAPTERS``) with these parts. Raises AdapterError."""
    keys = [f"module.{part}.weight" for part in parts]
    for entry in ADAPTERS:
        if adapter_class(entry.name).matches(keys):
            return entry.name
    raise AdapterError(f"no adapter kind has the parts {', '.join(sorted(parts))}")


def needs_base(adapter: StoredAdapter) -> bool:
    """Whether a weight delta depends on the base weights, as in DoRA."""
    by_form = {frozenset(parts): parts for parts in adapter.modules.values()}
    try:
        for parts in by_form.values():
            delta(parts)
    except AdapterError:
        return True
    return False


def scale_adapter(adapter: StoredAdapter, strength: float) -> StoredAdapter | None:
    """The adapter with ``strength`` multiplied into its weights, or None if no weights have the effect of a strength.

    The strength of a DoRA scales BA. That of a LoKr with weight decomposition scales the change of the magnitudes.
    """
    if strength == 1.0:
        return adapter
    if adapter.kind != "dora" and needs_base(adapter):
        return None
    weights = dict(adapter.weights)
    for name, parts in adapter.modules.items():
        part = next((part for part in _LINEAR if part in parts), None)
        if part is None:
            return None
        key = next(key for key in (f"{name}.{part}", f"{name}.{part}.weight") if key in weights)
        weights[key] = weights[key] * strength
    return dataclasses.replace(adapter, weights=weights)
