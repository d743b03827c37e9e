"""Settings of the sensitivity analysis. Importing this does not import torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config, option
from acestep.core.jobs import register_job
from acestep.core.registry import NameIn

KindWithRanks = Annotated[str, NameIn(ADAPTERS, where=lambda entry: entry.has_ranks)]


class EstimateJob(Config):
    """Find the modules of a model that a dataset would change most."""

    tensor_dir: Path = option(..., "Tensors Directory", "Folder of preprocessed songs.")
    checkpoint: str = option(..., "Model", "Name or folder of the model to train.")
    out: Path | None = option(
        None, "Results", "Folder of the results. Empty: _sensitivity inside the tensors directory."
    )
    batches: int = option(10, "Batches", "Number of samples to use; a smaller dataset is repeated.", ge=1, le=1000)
    granularity: Literal["layer", "module"] = option(
        "layer", "Granularity", "Rank whole attention and feed-forward blocks, or each weight."
    )
    top_k: int = option(20, "Top K", "Number of results to show.", ge=1, le=1000)
    attention_type: Literal["both", "self", "cross"] = option(
        "both", "Attention Target", "Attention layers to analyze: self (the music), cross (the text) or both."
    )
    train_mlp: bool = option(False, "Train MLP", "Include the feed-forward layers.")
    adapter_type: KindWithRanks = option(
        "lora",
        "Ranks for",
        "Adapter type to propose ranks for. LoKr has one dimension for all modules and needs none.",
    )
    rank: int | None = option(
        None,
        "Rank",
        "Mean of the proposed ranks. Empty: the default rank of the adapter type.",
        ge=1,
        le=1024,
        advanced=True,
    )
    max_latent_length: int = option(
        1500, "Max Crop Length", "Crop of each sample; 0 uses it whole.", unit="frames of 0.04 s", ge=0, le=15_000
    )
    seed: int = option(42, "Seed", "The same seed gives the same result.", ge=0, le=2**63 - 1, advanced=True)
    device: str = option("auto", "Device", "auto, cpu, cuda, cuda:1, mps or xpu.", advanced=True)
    mixed_precision: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto", "Precision", "Dtype of the base model and of the computation.", advanced=True
    )

    @property
    def mean_rank(self) -> int:
        """``rank``, or the default rank of the adapter type."""
        usual: int = ADAPTERS[self.adapter_type].config().r  # type: ignore[attr-defined]
        return usual if self.rank is None else self.rank

    @property
    def folder(self) -> Path:
        """Folder of the results and of the job's own files."""
        return self.out or self.tensor_dir / "_sensitivity"


register_job(
    "estimate",
    config="acestep.training.evaluation.configs:EstimateJob",
    run="acestep.training.evaluation.sensitivity:estimate_job",
)
