"""An adapter on its way to another program: what it adds, in every form that some program reads."""

from __future__ import annotations

import tempfile
from functools import cached_property, partial
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from acestep.adapters.base import StoredAdapter
from acestep.adapters.files import find_adapter, method
from acestep.exporting.delta import BaseWeights, delta, needs_base, scale_adapter
from acestep.exporting.low_rank import convert_to_lora

CONVOLUTIONS = ("proj_in.1",)
"""Modules that a LoRA's two matrices do not describe; only LoKr of other trainers sits on them."""
KERNEL_SIZE = 2


class ExportSource:
    """One adapter, the strength it leaves at, and the rank of the LoRA that it shall become, if any."""

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
        """[out, in] fp32 what this source adds to the weight of ``module``. Raises AdapterError without its base."""
        return self.strength * delta(self.modules[module], self.base_weight(module))

    def base_weight(self, module: str) -> Tensor | None:
        """The weight of ``module``, if it is at hand and the addition depends on it."""
        return self.base[module] if self.base and self.needs_base else None

    @cached_property
    def same_kind(self) -> StoredAdapter | None:
        """It in its own kind, or None where a LoRA of some rank is wanted or its kind cannot carry the strength."""
        return scale_adapter(self.adapter, self.strength) if self.rank is None else None

    @cached_property
    def same_kind_modules(self) -> dict[str, dict[str, Tensor]]:
        """The parts of ``own``; empty without it."""
        return self.same_kind.modules if self.same_kind else {}

    @cached_property
    def same_kind_file(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What the file of ``own`` holds: tensors and metadata; nothing without it."""
        return serialize_adapter(self.same_kind) if self.same_kind else ({}, {})

    @cached_property
    def lora(self) -> StoredAdapter:
        """It as the nearest LoRA, convolutions left out."""
        names = [name for name in self.modules if name not in CONVOLUTIONS]
        return convert_to_lora(self.adapter, {name: partial(self.weight_delta, name) for name in names}, self.rank)[0]

    def diff(self, module: str) -> Tensor:
        """The whole addition in the shape of the weight, in the type of the file. [out, in] or [out, in, kernel]"""
        weight_delta = self.weight_delta(module)
        shape = (len(weight_delta), -1, KERNEL_SIZE) if module in CONVOLUTIONS else weight_delta.shape
        return weight_delta.reshape(shape).to(self.adapter.dtype)

    def module_of_key(self, key: str) -> str:
        """The module that ``key`` of a file belongs to, under any program's names; empty if to none."""
        start = key.replace(".", "_")
        names = (name for name in self.modules if f"_{name.replace('.', '_')}_" in f"_{start}_")
        return max(names, key=len, default="")


def write_adapter_files(adapter: StoredAdapter, folder: Path) -> None:
    """The files of its own kind."""
    method(adapter.kind).write(folder, adapter.weights, adapter.config, adapter.card, adapter.dtype)


def serialize_adapter(adapter: StoredAdapter) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the file of its own kind holds: tensors and metadata."""
    with tempfile.TemporaryDirectory() as folder:
        write_adapter_files(adapter, Path(folder))
        return read_tensors(find_adapter(Path(folder)))


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(file, framework="pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
