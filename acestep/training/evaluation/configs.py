"""What is asked of an estimation of gradient sensitivity. Importing this does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config, option
from acestep.core.jobs import register_job
from acestep.core.registry import NameIn

KindWithRanks = Annotated[str, NameIn(ADAPTERS, where=lambda entry: entry.has_ranks)]


class EstimateJob(Config):
    """Which parts of a model a set of songs would change most."""

    tensor_dir: Path = option(..., "Tensors Directory", "Folder of preprocessed songs.")
    checkpoint: str = option(..., "Model", "Name or folder of the model to train.")
    out: Path | None = option(
        None, "Results", "Folder for the results; empty: _sensitivity in the folder of the songs."
    )
    batches: int = option(
        10, "Batches", "Songs that are looked at; with fewer songs, some are taken again.", ge=1, le=1000
    )
    granularity: Literal["layer", "module"] = option(
        "layer", "Granularity", "Rank attention blocks and feed-forward parts as wholes, or each weight of them."
    )
    top_k: int = option(20, "Top K", "So many of the first are told.", ge=1, le=1000)
    attention_type: Literal["both", "self", "cross"] = option(
        "both", "Attention Target", "Which attention is looked at: self (the music), cross (the text) or both."
    )
    train_mlp: bool = option(False, "Train MLP", "Look at the feed-forward layers too.")
    adapter_type: KindWithRanks = option(
        "lora",
        "Ranks for",
        "Kind of adapter that ranks are proposed for. A LoKr has one dim for all modules: there are none for it.",
    )
    rank: int | None = option(
        None,
        "Rank",
        "The mean of the ranks that are proposed for the single modules; empty takes the usual rank of the kind.",
        ge=1,
        le=1024,
        advanced=True,
    )
    max_latent_length: int = option(
        1500, "Max Crop Length", "Part of each song; 0 takes it whole.", unit="frames of 0.04 s", ge=0, le=15_000
    )
    seed: int = option(42, "Seed", "The same seed gives the same estimation.", ge=0, le=2**63 - 1, advanced=True)
    device: str = option("auto", "Device", "auto, cpu, cuda, cuda:1 or mps.", advanced=True)
    mixed_precision: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto", "Precision", "Of the model and the arithmetic.", advanced=True
    )

    @property
    def mean_rank(self) -> int:
        """``rank``, or that which the kind of adapter has by itself."""
        usual: int = ADAPTERS[self.adapter_type].config().r  # type: ignore[attr-defined]
        return usual if self.rank is None else self.rank

    @property
    def folder(self) -> Path:
        """Where the results and the job's own files go."""
        return self.out or self.tensor_dir / "_sensitivity"


register_job(
    "estimate",
    config="acestep.training.evaluation.configs:EstimateJob",
    run="acestep.training.evaluation.sensitivity:estimate_job",
)
