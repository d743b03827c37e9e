"""The programs an adapter can be written for, and the jobs around finished adapters. Imports without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from acestep.core.config import Config, option
from acestep.core.jobs import register_job
from acestep.core.registry import Entry, Registry

ALL = "all"
"""Stands for every program in ``TARGETS``."""


TARGETS: Registry[Entry[Any]] = Registry("export target", Entry)
"""Programs; the implementation of each is a ``package.Writer``."""

TARGETS.register(
    "acestep",
    target="acestep.exporting.programs:acestep",
    label="ACE-Step app",
    help="A folder for the app's adapter box. A LoRA's file in it works in ComfyUI and diffusers too.",
)
TARGETS.register(
    "comfyui",
    target="acestep.exporting.programs:comfyui",
    label="ComfyUI",
    help="One file for models/loras. What ComfyUI would compute wrongly goes in as whole additions.",
)
TARGETS.register(
    "diffusers",
    target="acestep.exporting.programs:diffusers",
    label="diffusers",
    help="One file for load_lora_weights. LoKr and LoHa become the nearest LoRA, and what is lost is told.",
)


class MergeJob(Config):
    """An adapter becomes part of the weights of its model."""

    checkpoint: str = option(..., "Base model", "Name or folder of the model that the adapter was trained on.")
    adapter: Path = option(..., "Adapter", "Run folder, adapter folder or file.")
    out: Path = option(..., "Merged model", "Folder to write; beside the other models it shows up in their list.")
    strength: float = option(1.0, "Strength", "1 merges the adapter as trained, less weakens it.", ge=-4, le=4)
    layout: Literal["same", "diffusers"] = option(
        "same",
        "Layout",
        "same keeps the base model's own, for this program and the ACE-Step app; diffusers is for AceStepPipeline, "
        "complete with VAE and text encoder.",
    )
    root: Path | None = option(None, "Checkpoints folder", "Where else to look for the base model.", advanced=True)


class ProveJob(Config):
    """Whether an adapter learned anything: the model with and without it on the same seeds and prompts."""

    checkpoint: str = option(..., "Base model", "Name or folder of the model that the adapter was trained on.")
    adapter: Path = option(..., "Adapter", "Run folder, adapter folder or file.")
    out: Path = option(..., "Folder", "Where the sound files and the figures are written.")
    prompts: list[str] = option(
        [], "Prompts", "What to ask for; the trigger word is added. Empty: the sample prompt of the adapter."
    )
    seeds: list[int] = option(
        [1, 2],
        "Seeds",
        "One piece for each prompt and seed; what differs between seeds is the yardstick.",
        min_length=2,
    )
    duration_s: float = option(15.0, "Duration", "Length of each piece.", unit="s", ge=1, le=120)
    strength: float = option(1.0, "Strength", "Strength of the adapter.", ge=-4, le=4)
    steps: int | None = option(None, "Inference steps", "Empty: those of the model.", ge=1, le=200, advanced=True)
    device: str = option("auto", "Device", "auto takes the best of this machine.", advanced=True)
    root: Path | None = option(None, "Checkpoints folder", "Where else to look for the base model.", advanced=True)


register_job("merge", config="acestep.exporting.configs:MergeJob", run="acestep.exporting.merge:merge_job")
register_job("prove", config="acestep.exporting.configs:ProveJob", run="acestep.exporting.prove:prove_job")
