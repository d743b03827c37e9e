"""What a captioning job is told to do. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from acestep.core.config import Config, assign, option

Existing = Literal["keep", "redo", "replace"]


class CaptionJob(Config):
    """Describe, measure and transcribe the songs of a folder. Keys of services are never part of it."""

    audio_dir: Path = option(..., "Audio folder", "The folder that holds the songs; sub-folders count too.")
    only: list[str] = option([], "Only these songs", "Paths below the audio folder; empty means all.", advanced=True)
    captioner: Literal["local", "gemini", "none"] = option(
        "local", "Captioner", "What describes the songs in words. none leaves captions alone."
    )
    transcriber: Literal["local", "whisper", "elevenlabs", "gemini", "none"] = option(
        "none", "Transcriber", "What writes down the lyrics. none leaves lyrics alone."
    )
    measure: bool = option(True, "Measure tempo, key and meter", "By signal processing, in about a second a song.")
    prefer: Literal["measured", "model"] = option(
        "measured", "Which counts", "Whose tempo, key and meter are used where model and measurement differ."
    )
    existing: Existing = option(
        "keep",
        "Existing texts",
        "keep fills what is missing, redo also replaces what a machine wrote, replace overwrites your own texts too.",
    )
    custom_tag: str = option("", "Activation tag", "Noted in the label files; the caption stays without it.")
    write_texts: bool = option(True, "Write text files", "song.caption.txt and song.lyrics.txt beside the JSON file.")
    csv: Path | None = option(None, "CSV file", "A table of all labels, written at the end.")

    captioner_model: str = option(
        "ACE-Step/acestep-captioner", "Captioner model", "A folder, or a name on Hugging Face."
    )
    transcriber_model: str = option(
        "ACE-Step/acestep-transcriber", "Transcriber model", "A folder, or a name on Hugging Face."
    )
    checkpoints: Path | None = option(None, "Checkpoints folder", "Searched first for the models.", advanced=True)
    download: bool = option(True, "Download missing models", "22 GB each, once. Off: a missing model is an error.")
    device: str = option("auto", "Device", "auto, cpu, mps, xpu, cuda or cuda:1.", advanced=True)
    devices: int = option(
        1, "Devices", "Graphics cards of this machine that share the songs.", ge=1, le=64, advanced=True
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto", "Number type", "auto takes what is fast on the device.", advanced=True
    )
    quantization: Literal["none", "8bit", "4bit"] = option(
        "none", "Quantisation", "8bit fits 12 GB of graphics memory, 4bit 8 GB. NVIDIA only."
    )
    max_tokens: int = option(512, "Caption tokens", "The longest caption.", unit="tokens", ge=16, le=4096)
    lyrics_max_tokens: int = option(
        2048, "Lyrics tokens", "The longest lyrics of one window; longer ones are heard in halves.", ge=16, le=8192
    )
    temperature: float = option(0.7, "Temperature", "0 always takes the likeliest word.", ge=0, le=2, advanced=True)
    top_p: float = option(0.9, "Top-p", "Only words within this share of likelihood.", gt=0, le=1, advanced=True)
    lyrics_temperature: float = option(
        0.0, "Lyrics temperature", "0 is best: lyrics are not invented.", ge=0, le=2, advanced=True
    )
    window_s: float = option(
        240.0, "Window", "Longer songs are heard in windows of at most this.", unit="s", ge=5, le=300, advanced=True
    )
    seed: int = option(42, "Seed", "The same seed gives the same captions.", ge=0, advanced=True)

    language: str = option("", "Language", "A code such as en, told to the service; empty lets it listen for itself.")
    openai_url: str = option(
        "https://api.openai.com/v1", "Whisper address", "Or that of your own server that speaks like it.", advanced=True
    )
    whisper_model: str = option("whisper-1", "Whisper model", "As the server calls it.", advanced=True)
    elevenlabs_url: str = option("https://api.elevenlabs.io", "ElevenLabs address", "Of the service.", advanced=True)
    elevenlabs_model: str = option("scribe_v2", "ElevenLabs model", "As the service calls it.", advanced=True)
    gemini_url: str = option(
        "https://generativelanguage.googleapis.com", "Gemini address", "Of the service.", advanced=True
    )
    gemini_model: str = option(
        "gemini-flash-latest", "Gemini model", "The alias that follows Google's newest fast model.", advanced=True
    )
    retries: int = option(4, "Tries again", "How often a busy service is asked again.", ge=0, le=10, advanced=True)
    timeout_s: float = option(300.0, "Time-out", "How long a service may take.", unit="s", gt=0, advanced=True)


def use_backend(config: CaptionJob, name: str) -> None:
    """Let one back end do what it can: local and gemini describe, whisper and elevenlabs write down lyrics alone.

    Raises:
        ConfigError: no back end is called so.
    """
    if name in ("whisper", "elevenlabs"):
        config.captioner, config.transcriber = "none", name  # type: ignore[assignment]
    else:
        assign(config, "captioner", name)
