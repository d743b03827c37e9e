"""What preprocessing can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from acestep.core.config import Config, group, option
from acestep.core.jobs import register_job


class PreprocessJob(Config):
    """One run of preprocessing. Settings that are None are the dataset's own."""

    source: Path = option(..., "Dataset or audio folder", "A dataset JSON, or a folder of songs to be scanned.")
    checkpoint: str = option(..., "Model", "Name or folder of the model that will be trained.")
    out: Path = option(Path("datasets/preprocessed_tensors"), "Output Directory", "Folder for the tensors.")
    two_pass: bool = option(
        False,
        "Two-Pass (Low VRAM)",
        "Never holds all models at once: sound and text first, then the conditions. Same result, less memory.",
    )
    normalize: Literal["none", "peak", "lufs", "peak_lufs"] = option(
        "none", "Audio Normalization", "Bring all songs to one loudness: peak is -1 dBFS, lufs is -14 LUFS."
    )
    max_duration_s: int = option(
        240, "Max Duration", "Songs are cut off after this many seconds.", unit="s", ge=10, le=600
    )
    tag: str | None = option(None, "Activation tag", "The word that will call the style.")
    tag_position: Literal["prepend", "append", "replace"] | None = option(
        None, "Tag position", "Before the caption, after it, or instead of it."
    )
    genre_ratio: int | None = option(
        None, "Genre Ratio", "Share of songs described by their genre instead of their caption.", unit="%", ge=0, le=100
    )
    include_unlabelled: bool = option(
        False, "Include unlabelled", "Also use songs without a caption: the tag alone describes them."
    )
    seed: int = option(42, "Seed", "The same seed gives the same tensors.", ge=0, le=2**63 - 1, advanced=True)
    device: str = option("auto", "Device", "auto, cpu, cuda, cuda:1, mps or xpu.", advanced=True)
    devices: int = option(
        1, "Devices", "Graphics cards of this machine that share the songs.", ge=1, le=64, advanced=True
    )
    dtype: str = option("auto", "Precision", "auto, fp32, bf16 or fp16.", advanced=True)

    @property
    def folder(self) -> Path:
        """Where the job is kept."""
        return self.out / "_job"


class EncodeJob(Config):
    """What one of several processes does: its share of the songs of a ``PreprocessJob``."""

    songs: Path = option(..., "Songs", "JSON file of the planned songs.")
    job: PreprocessJob = group(PreprocessJob, "Preprocessing")


register_job(
    "encode",
    config="acestep.preprocessing.configs:EncodeJob",
    run="acestep.preprocessing.multi_device:encode_job",
)
register_job(
    "preprocess",
    config="acestep.preprocessing.configs:PreprocessJob",
    run="acestep.preprocessing.builder:preprocess_job",
)
