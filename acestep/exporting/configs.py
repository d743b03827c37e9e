"""Settings of the jobs for finished adapters. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from acestep.core.config import MAX_SEED, Config, option
from acestep.core.jobs import register_job


class MergeJob(Config):
    """Merge an adapter into the weights of its base model."""

    checkpoint: str = option(..., "Base model", "Name or folder of the model that the adapter was trained on.")
    adapter: Path = option(..., "Adapter", "Run folder, adapter folder or file.")
    out: Path = option(..., "Merged model", "Folder to write. Models in the checkpoints folder are listed.")
    strength: float = option(1.0, "Strength", "1 merges the adapter as trained. Smaller values weaken it.", ge=-4, le=4)
    layout: Literal["same", "diffusers"] = option(
        "same",
        "Layout",
        "same keeps the layout of the base model, for this program and the ACE-Step app. diffusers writes a complete "
        "AceStepPipeline with VAE and text encoder.",
    )
    root: Path | None = option(None, "Checkpoints folder", "Additional folder to search for models.", advanced=True)


class ProveJob(Config):
    """Compare the base model with and without an adapter on the same seeds and prompts."""

    checkpoint: str = option(..., "Base model", "Name or folder of the model that the adapter was trained on.")
    adapter: Path = option(..., "Adapter", "Run folder, adapter folder or file.")
    out: Path = option(..., "Folder", "Folder for the audio files and metrics.")
    prompts: list[str] = option(
        [], "Prompts", "Prompts to generate. The trigger word is added. Empty: the sample prompt of the adapter."
    )
    seeds: list[Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED)]] = option(
        [1, 2],
        "Seeds",
        "One generation per prompt and seed. The difference between seeds is the reference.",
        min_length=2,
        max_length=1000,
    )
    duration_s: float = option(15.0, "Duration", "Length of each generation.", unit="s", ge=1, le=120)
    strength: float = option(1.0, "Strength", "Strength of the adapter.", ge=-4, le=4)
    steps: int | None = option(None, "Inference steps", "Empty: the default of the model.", ge=1, le=200, advanced=True)
    device: str = option("auto", "Device", "auto selects the best available device.", advanced=True)
    root: Path | None = option(None, "Checkpoints folder", "Additional folder to search for models.", advanced=True)


register_job("merge", config="acestep.exporting.configs:MergeJob", run="acestep.exporting.merge:merge_job")
register_job("prove", config="acestep.exporting.configs:ProveJob", run="acestep.exporting.ab_evaluation:prove_job")
