"""An adapter on its way to another program: what it adds, in every form that some program reads."""

from __future__ import annotations

import tempfile
from functools import cached_property, partial
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from acestep.adapters.base import StoredAdapter
from acestep.adapters.files import find_adapter, method
from acestep.exporting.delta import BaseWeights, delta, needs_base, scaled
from acestep.exporting.lowrank import lora_of

CONVOLUTIONS = ("proj_in.1",)
"""Modules that a LoRA's two matrices do not describe; only LoKr of other trainers sits on them."""
KERNEL = 2


class Source:
    """One adapter, the strength it leaves at, and the rank of the LoRA that it shall become, if any."""

    def __init__(
        self, adapter: StoredAdapter, base: BaseWeights | None, *, rank: int | None = None, strength: float = 1.0
    ) -> None:
        self.adapter = adapter
        self.base = base
        self.rank = rank
        self.strength = strength
        self.modules = adapter.modules
        self.measures_base = needs_base(adapter)

    def addition(self, module: str) -> Tensor:
        """[out, in] fp32 what this source adds to the weight of ``module``. Raises AdapterError without its base."""
        return self.strength * delta(self.modules[module], self.base_weight(module))

    def base_weight(self, module: str) -> Tensor | None:
        """The weight of ``module``, if it is at hand and the addition depends on it."""
        return self.base[module] if self.base and self.measures_base else None

    @cached_property
    def own(self) -> StoredAdapter | None:
        """It in its own kind, or None where a LoRA of some rank is wanted or its kind cannot carry the strength."""
        return scaled(self.adapter, self.strength) if self.rank is None else None

    @cached_property
    def own_modules(self) -> dict[str, dict[str, Tensor]]:
        """The parts of ``own``; empty without it."""
        return self.own.modules if self.own else {}

    @cached_property
    def own_file(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """What the file of ``own`` holds: tensors and metadata; nothing without it."""
        return file_of(self.own) if self.own else ({}, {})

    @cached_property
    def lora(self) -> StoredAdapter:
        """It as the nearest LoRA, convolutions left out."""
        names = [name for name in self.modules if name not in CONVOLUTIONS]
        return lora_of(self.adapter, {name: partial(self.addition, name) for name in names}, self.rank)[0]

    def diff(self, module: str) -> Tensor:
        """The whole addition in the shape of the weight, in the type of the file. [out, in] or [out, in, kernel]"""
        addition = self.addition(module)
        shape = (len(addition), -1, KERNEL) if module in CONVOLUTIONS else addition.shape
        return addition.reshape(shape).to(self.adapter.dtype)

    def owner(self, key: str) -> str:
        """The module that ``key`` of a file belongs to, under any program's names; empty if to none."""
        start = key.replace(".", "_")
        names = (name for name in self.modules if f"_{name.replace('.', '_')}_" in f"_{start}_")
        return max(names, key=len, default="")


def write_own(adapter: StoredAdapter, folder: Path) -> None:
    """The files of its own kind."""
    method(adapter.kind).write(folder, adapter.weights, adapter.config, adapter.card, adapter.dtype)


def file_of(adapter: StoredAdapter) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the file of its own kind holds: tensors and metadata."""
    with tempfile.TemporaryDirectory() as folder:
        write_own(adapter, Path(folder))
        return read_tensors(find_adapter(Path(folder)))


def read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file."""
    with safe_open(file, framework="pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
