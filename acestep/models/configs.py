"""What a piece of music can be asked for."""

from __future__ import annotations

from acestep.core.config import Config, option


class GenerationConfig(Config):
    """One piece of music. What is None follows the checkpoint: turbo 8 steps without guidance, base 60 with."""

    prompt: str = option("", "Style", "What the music should sound like.")
    lyrics: str = option("[Instrumental]", "Lyrics", "Words with section tags, or [Instrumental].")
    language: str = option(
        "unknown", "Language", "Language code of the lyrics, such as en; unknown when there are none."
    )
    bpm: int | None = option(None, "BPM", "Tempo; empty lets the model choose.", ge=30, le=300)
    keyscale: str = option("", "Key", "Such as C Major; empty lets the model choose.")
    timesignature: str = option("", "Time signature", "Beats in a bar: 2, 3, 4 or 6; empty lets the model choose.")
    duration_s: float = option(30.0, "Duration", "Length of the piece.", unit="s", ge=1, le=600)
    seed: int = option(42, "Seed", "The same seed gives the same piece.", ge=0, le=2**63 - 1)
    steps: int | None = option(None, "Inference steps", "Steps from noise to music.", ge=1, le=200, advanced=True)
    guidance: float | None = option(
        None,
        "CFG scale",
        "How closely base models follow the text; turbo models ignore it.",
        ge=0,
        le=15,
        advanced=True,
    )
    shift: float | None = option(
        None, "Shift", "Spends more steps on the noisy part when above 1.", ge=1, le=5, advanced=True
    )
