"""Configs of the jobs ``preprocess`` and ``encode``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from acestep.core.config import Config, group, option
from acestep.core.jobs import register_job


class PreprocessJob(Config):
    """Config of preprocessing. For settings that are None, the value of the dataset is used."""

    source: Path = option(..., "Dataset or audio folder", "A dataset file (JSON), or a folder of audio files to scan.")
    checkpoint: str = option(..., "Model", "Name or folder of the base model to train.")
    out: Path = option(Path("datasets/preprocessed_tensors"), "Output Directory", "Output folder for the tensors.")
    two_pass: bool = option(
        False,
        "Two-Pass (Low VRAM)",
        "Encode all audio and text first, then all conditions: fewer models in memory at once, same result.",
    )
    normalize: Literal["none", "peak", "lufs", "peak_lufs"] = option(
        "none",
        "Audio Normalization",
        "Normalize the level of each audio file: peak to -1 dBFS, lufs to -14 LUFS, peak_lufs both.",
    )
    max_duration_s: int = option(240, "Max Duration", "Audio is truncated to this length.", unit="s", ge=10, le=600)
    tag: str | None = option(None, "Activation tag", "Trigger word: the word in a prompt that activates the adapter.")
    tag_position: Literal["prepend", "append", "replace"] | None = option(
        None, "Tag position", "Where the tag goes: before the caption, after it, or in its place."
    )
    genre_ratio: int | None = option(
        None, "Genre Ratio", "Percentage of samples that use the genre instead of the caption.", unit="%", ge=0, le=100
    )
    include_unlabelled: bool = option(
        False, "Include unlabeled", "Include samples without a caption, described by the tag alone."
    )
    seed: int = option(
        42,
        "Seed",
        "Random seed of the VAE. The same seed gives the same tensors.",
        ge=0,
        le=2**63 - 1,
        advanced=True,
    )
    device: str = option("auto", "Device", "auto, cpu, cuda, cuda:1, mps or xpu.", advanced=True)
    devices: int = option(1, "Devices", "Number of devices of this machine to encode on.", ge=1, le=64, advanced=True)
    dtype: str = option(
        "auto", "Precision", "auto, fp32, bf16 or fp16. With fp16, encoders and VAE compute in fp32.", advanced=True
    )

    @property
    def folder(self) -> Path:
        """The job folder."""
        return self.out / "_job"


class EncodeJob(Config):
    """Config of one worker process: the part of the samples of a ``PreprocessJob`` that it encodes."""

    songs: Path = option(..., "Songs", "JSON file with the samples to encode.")
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
    distributed=True,
)
