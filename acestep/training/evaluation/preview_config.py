"""What music is made during a run, to hear how the adapter grows. Importing this does not import torch."""

from __future__ import annotations

from pydantic import field_validator

from acestep.core.config import Config, option


class PreviewConfig(Config):
    """The same request again and again, so that nothing but the adapter differs."""

    enabled: bool = option(False, "Make samples", "Make music with the adapter while it is trained, to hear it grow.")
    every_n_epochs: int = option(0, "Every N Epochs", "How often; 0 makes samples whenever epochs are saved.", ge=0)
    prompt: str = option("", "Style", "What to ask for. The trigger word is added.")
    lyrics: str = option("", "Lyrics", "Words with section tags; empty for an instrumental.")
    language: str = option("unknown", "Language", "Language code of the lyrics, such as en.", advanced=True)
    bpm: int | None = option(120, "BPM", "Tempo; empty lets the model choose.", ge=30, le=300)
    keyscale: str = option("", "Key", "Such as C Major; empty lets the model choose.")
    timesignature: str = option("4", "Time signature", "Beats in a bar: 2, 3, 4 or 6; empty lets the model choose.")
    duration_s: float = option(30.0, "Duration", "Length of each sample.", unit="s", ge=1, le=600)
    strengths: str = option(
        "0.5, 1.0, 1.5",
        "Strengths",
        "Each sample is made at these strengths of the adapter: 1 as trained, more exaggerates.",
    )
    steps: int = option(
        0, "Inference steps", "Steps from noise to music; 0 as the model needs.", ge=0, le=200, advanced=True
    )
    guidance: float = option(
        0.0,
        "CFG scale",
        "How closely base models follow the text; 0 as usual for the model.",
        ge=0,
        le=15,
        advanced=True,
    )
    shift: float = option(
        0.0, "Shift", "Spends more steps on the noisy part when above 1; 0 as usual.", ge=0, le=5, advanced=True
    )
    seed: int = option(42, "Seed", "All samples begin with the same noise.", ge=0, le=2**63 - 1)

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
        """The strengths as numbers, each once."""
        return _parsed(self.strengths)


def _parsed(text: str) -> list[float]:
    """Numbers with two digits, as the names of the files have them; nothing if one of them is none."""
    try:
        return list(dict.fromkeys(round(float(part), 2) for part in text.split(",") if part.strip()))
    except (ValueError, OverflowError):
        return []
