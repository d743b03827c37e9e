"""Registry of export targets: the programs that an adapter can be written for. Imports without torch.

To add a target, write one module with a function ``(source, folder, name) -> WrittenAdapter`` and register it here. The
function writes the adapter into an empty folder and returns what the program loads from it; see ``comfyui`` for an
example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from acestep.core.registry import Entry, Registry

if TYPE_CHECKING:
    from acestep.exporting.load_result import WrittenAdapter
    from acestep.exporting.source import ExportSource

    Writer = Callable[[ExportSource, Path, str], WrittenAdapter]

ALL = "all"
"""Stands for every program in ``TARGETS``."""


@dataclass(frozen=True, kw_only=True)
class ExportTarget(Entry["Writer"]):
    """One program.

    Attributes:
        usage: how to load the exported adapter, in Markdown, for the model card; empty if unknown.
    """

    usage: str = ""


TARGETS: Registry[ExportTarget] = Registry("export target", ExportTarget)

TARGETS.register(
    "acestep",
    target="acestep.exporting.targets.acestep:write",
    label="ACE-Step app",
    help="A folder for the app's adapter field. The file of a LoRA on attention layers also works in ComfyUI and "
    "diffusers.",
    usage="ACE-Step app: enter this folder in the adapter field. The app shows it under the folder's name.",
)
TARGETS.register(
    "comfyui",
    target="acestep.exporting.targets.comfyui:write",
    label="ComfyUI",
    help="One file for models/loras. Layers that ComfyUI computes incorrectly are stored as full differences (diff).",
    usage="ComfyUI: put the .safetensors file into `models/loras` and load it with *Load LoRA* at strength 1.",
)
TARGETS.register(
    "diffusers",
    target="acestep.exporting.targets.diffusers:write",
    label="diffusers",
    help="One file for load_lora_weights. LoKr and LoHa on any layer become the nearest LoRA; the error is reported.",
    usage="diffusers: `pipeline.load_lora_weights(folder)` on an `AceStepPipeline`.",
)
