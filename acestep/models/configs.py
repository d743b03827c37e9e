"""Options of text-to-music generation."""

from __future__ import annotations

from acestep.core.config import Config, option


class GenerationConfig(Config):
    """Inputs of one generation. None selects the default of the checkpoint: 8 steps without guidance for turbo models,
    60 steps with guidance 7.0 for base models.
    """

    prompt: str = option("", "Style", "Description of the style: genre, mood, instruments.")
    lyrics: str = option("[Instrumental]", "Lyrics", "Lyrics with section tags such as [Verse], or [Instrumental].")
    language: str = option(
        "unknown", "Language", "Language code of the lyrics, for example en; unknown for instrumentals."
    )
    bpm: int | None = option(None, "BPM", "Tempo in beats per minute; empty: the model chooses.", ge=30, le=300)
    keyscale: str = option("", "Key", "For example C Major; empty: the model chooses.")
    timesignature: str = option("", "Time signature", "Beats per bar: 2, 3, 4 or 6; empty: the model chooses.")
    duration_s: float = option(30.0, "Duration", "Length of the generated audio.", unit="s", ge=1, le=600)
    seed: int = option(42, "Seed", "The same seed and options give the same audio.", ge=0, le=2**63 - 1)
    steps: int | None = option(None, "Inference steps", "Number of denoising steps.", ge=1, le=200, advanced=True)
    guidance: float | None = option(
        None,
        "CFG scale",
        "Classifier-free guidance scale of base models; turbo models ignore it.",
        ge=0,
        le=15,
        advanced=True,
    )
    shift: float | None = option(
        None, "Shift", "Timestep shift; values above 1 spend more steps at high noise.", ge=1, le=5, advanced=True
    )
