"""Settings of the audio previews during training. Importing this does not import torch."""

from __future__ import annotations

from pydantic import field_validator

from acestep.core.config import MAX_COUNT, Config, option


class PreviewConfig(Config):
    """One fixed generation request, so that only the adapter differs between previews."""

    enabled: bool = option(False, "Make samples", "Generate audio with the adapter during training.")
    every_n_epochs: int = option(
        0, "Every N Epochs", "Interval; 0 makes samples whenever a checkpoint is saved.", ge=0, le=MAX_COUNT
    )
    prompt: str = option("", "Style", "Prompt. The trigger word is added.")
    lyrics: str = option("", "Lyrics", "Lyrics with section tags. Empty: instrumental.")
    language: str = option("unknown", "Language", "Language code of the lyrics, for example en.", advanced=True)
    bpm: int | None = option(120, "BPM", "Tempo. Empty: the model chooses.", ge=30, le=300)
    keyscale: str = option("", "Key", "For example C Major. Empty: the model chooses.")
    timesignature: str = option("4", "Time signature", "Beats per bar: 2, 3, 4 or 6. Empty: the model chooses.")
    duration_s: float = option(30.0, "Duration", "Length of each sample.", unit="s", ge=1, le=600)
    strengths: str = option(
        "0.5, 1.0, 1.5",
        "Strengths",
        "Adapter strengths to generate with: 1 is as trained, higher values exaggerate.",
    )
    steps: int = option(
        0, "Inference steps", "Number of denoising steps; 0 uses the model's default.", ge=0, le=200, advanced=True
    )
    guidance: float = option(
        0.0,
        "CFG scale",
        "Guidance scale of base models; 0 uses the default.",
        ge=0,
        le=15,
        advanced=True,
    )
    shift: float = option(
        0.0,
        "Shift",
        "Timestep shift: above 1 more steps at high noise; 0 is the default.",
        ge=0,
        le=5,
        advanced=True,
    )
    seed: int = option(42, "Seed", "All samples start from the same noise.", ge=0, le=2**63 - 1)

    @field_validator("strengths")
    @classmethod
    def _numbers(cls, text: str) -> str:
        found = _parsed(text)
        if not found or not all(0 <= strength <= 10 for strength in found):
            raise ValueError(f"strengths must be numbers from 0 to 10 with commas between them, got {text!r:.80}")
        return text

    @field_validator("shift")
    @classmethod
    def _shift(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError(f"shift must be 0 or from 1 to 5, got {value}")
        return value

    @property
    def strength_values(self) -> list[float]:
        """The strengths as numbers, without duplicates."""
        return _parsed(self.strengths)


def _parsed(text: str) -> list[float]:
    """Numbers rounded to two digits, as in the file names; empty if one cannot be read."""
    try:
        return list(dict.fromkeys(round(float(part), 2) for part in text.split(",") if part.strip()))
    except (ValueError, OverflowError):
        return []
