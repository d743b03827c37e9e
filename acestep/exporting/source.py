"""The adapter of an export, in each form that a program can load: own kind, LoRA, or full weight differences."""

from __future__ import annotations

import tempfile
from functools import cached_property, partial
from pathlib import Path

from torch import Tensor

from acestep.adapters.base import StoredAdapter
from acestep.adapters.files import adapter_class, find_adapter
from acestep.adapters.targets import CONVOLUTIONS, KERNEL_SIZE
from acestep.adapters.weights_file import read_tensors as read_tensors  # also imported from here
from acestep.exporting.delta import BaseWeights, delta, needs_base, scale_adapter
from acestep.exporting.low_rank import convert_to_lora


class ExportSource:
    """An adapter to export.

    Args:
        adapter: the adapter.
        base: weights of its base model. Required for DoRA in some forms.
        rank: rank of the LoRA that the adapter is converted to. None: convert only if required.
        strength: scale that is applied to the weight deltas.
    """

    def __init__(
        self, adapter: StoredAdapter, base: BaseWeights | None, *, rank: int | None = None, strength: float = 1.0
    ) -> None:
        self.adapter = adapter
        self.base = base
        self.rank = rank
        self.strength = strength
        self.modules = adapter.modules
        self.needs_base = needs_base(adapter)

    def weight_delta(self, module: str) -> Tensor:
        """The scaled weight delta [out, in] of ``module`` in fp32. Raises AdapterError if the base model is missing."""
        return delta(self.modules[module], self.base_weight(module), self.strength)

    def base_weight(self, module: str) -> Tensor | None:
        """The base weight of ``module``, or None if it is not available or not needed."""
        return self.base[module] if self.base and self.needs_base else None

    @cached_property
    def same_kind(self) -> StoredAdapter | None:
        """The adapter in its own kind, or None if a rank is set or its kind cannot be scaled by ``strength``."""
        return scale_adapter(self.adapter, self.strength) if self.rank is None else None

    @cached_property
    def same_kind_modules(self) -> dict[str, dict[str, Tensor]]:
        """The modules of ``same_kind``; empty if it is None."""
        return self.same_kind.modules if self.same_kind else {}

    @cached_property
    def same_kind_file(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Tensors and metadata of the file of ``same_kind``; empty if it is None."""
        return serialize_adapter(self.same_kind) if self.same_kind else ({}, {})

    @property
    def lora(self) -> StoredAdapter:
        """The adapter as its best LoRA approximation."""
        return self._approximation[0]

    @property
    def lora_error(self) -> float:
        """Relative error of ``lora`` in fp32, before its weights are rounded to the dtype of the file."""
        return self._approximation[1]

    @cached_property
    def _approximation(self) -> tuple[StoredAdapter, float]:
        deltas = {name: partial(self.weight_delta, name) for name in self.modules}
        return convert_to_lora(self.adapter, deltas, self.rank)

    def diff(self, module: str) -> Tensor:
        """The full weight difference [out, in] or [out, in, kernel], in the dtype of the adapter."""
        weight_delta = self.weight_delta(module)
        shape = (len(weight_delta), -1, KERNEL_SIZE) if module in CONVOLUTIONS else weight_delta.shape
        return weight_delta.reshape(shape).to(self.adapter.dtype)

    def module_of_key(self, key: str) -> str:
        """The module that a key of any format belongs to, or an empty string."""
        start = key.replace(".", "_")
        names = (name for name in self.modules if f"_{name.replace('.', '_')}_" in f"_{start}_")
        return max(names, key=len, default="")


def write_adapter_files(adapter: StoredAdapter, folder: Path) -> None:
    """Write the files of an adapter in its own kind."""
    adapter_class(adapter.kind).write(folder, adapter.weights, adapter.config, adapter.metadata, adapter.dtype)


def serialize_adapter(adapter: StoredAdapter) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the file that ``write_adapter_files`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        write_adapter_files(adapter, Path(folder))
        return read_tensors(find_adapter(Path(folder)))
