"""Settings of a captioning job. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS
from acestep.captioning.omni_memory import Quantization, gpu_memory
from acestep.core.config import MAX_SEED, Config, assign, option
from acestep.core.jobs import register_job
from acestep.core.registry import NameIn

NONE = "none"

Existing = Literal["keep", "redo", "replace"]
CaptionerName = Annotated[str, NameIn(CAPTIONERS, extra=(NONE,))]
TranscriberName = Annotated[str, NameIn(TRANSCRIBERS, extra=(NONE,))]


class CaptionJob(Config):
    """Describe, measure and transcribe the songs in a folder. API keys are never part of it."""

    audio_dir: Path = option(..., "Audio folder", "Folder with the songs, including sub-folders.")
    only: list[str] = option([], "Only these songs", "Paths below the audio folder. Empty: all songs.", advanced=True)
    captioner: CaptionerName = option("local", "Captioner", "Model that writes captions. none keeps captions as is.")
    transcriber: TranscriberName = option(
        NONE, "Transcriber", "Model that transcribes lyrics. none keeps lyrics as is."
    )
    measure: bool = option(
        True, "Measure tempo, key and meter", "Measured from the audio, in about one second per song."
    )
    prefer: Literal["measured", "model"] = option(
        "measured", "Which counts", "Source of tempo, key and meter where measurement and model disagree."
    )
    existing: Existing = option(
        "keep",
        "Existing texts",
        "keep fills in missing labels, redo also replaces generated ones, replace overwrites your own texts too.",
    )
    custom_tag: str = option("", "Activation tag", "Saved in the label files. It is not added to the caption.")
    write_texts: bool = option(
        True, "Write text files", "Also write song.caption.txt and song.lyrics.txt beside the JSON file."
    )
    csv: Path | None = option(None, "CSV file", "Table of all labels, written at the end.")

    captioner_model: str = option(
        CAPTIONERS["local"].model, "Captioner model", "Folder, or repository name on Hugging Face."
    )
    transcriber_model: str = option(
        TRANSCRIBERS["local"].model, "Transcriber model", "Folder, or repository name on Hugging Face."
    )
    checkpoints: Path | None = option(
        None, "Checkpoints folder", "First folder to search for the models.", advanced=True
    )
    download: bool = option(True, "Download missing models", "22 GB per model, once. Off: a missing model is an error.")
    device: str = option("auto", "Device", "auto, cpu, mps, xpu, cuda or cuda:1.", advanced=True)
    devices: int = option(1, "Devices", "Number of GPUs that share the songs.", ge=1, le=64, advanced=True)
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto", "Dtype", "auto selects bf16 on GPUs, fp32 on the CPU.", advanced=True
    )
    quantization: Quantization = option(
        "none",
        "Quantization",
        f"none needs {gpu_memory()} of GPU memory, 8bit {gpu_memory('8bit')}, 4bit {gpu_memory('4bit')}. NVIDIA only.",
    )
    max_tokens: int = option(512, "Caption tokens", "Maximum length of a caption.", unit="tokens", ge=16, le=4096)
    lyrics_max_tokens: int = option(
        2048,
        "Lyrics tokens",
        "Maximum length of the lyrics of one window. Windows with longer lyrics are split in half.",
        ge=16,
        le=8192,
    )
    temperature: float = option(
        0.7, "Temperature", "Sampling temperature of captions. 0 is greedy decoding.", ge=0, le=2, advanced=True
    )
    top_p: float = option(0.9, "Top-p", "Nucleus sampling: cumulative probability.", gt=0, le=1, advanced=True)
    lyrics_temperature: float = option(
        0.0,
        "Lyrics temperature",
        "Sampling temperature of lyrics. 0 is recommended: higher values invent lyrics.",
        ge=0,
        le=2,
        advanced=True,
    )
    window_s: float = option(
        240.0,
        "Window",
        "Longer songs are split into windows of at most this length.",
        unit="s",
        ge=5,
        le=300,
        advanced=True,
    )
    seed: int = option(42, "Seed", "The same seed gives the same captions.", ge=0, le=MAX_SEED, advanced=True)

    language: str = option("", "Language", "Language code such as en, sent to online services. Empty: detected.")
    openai_url: str = option(
        TRANSCRIBERS["whisper"].url,
        "Whisper address",
        "OpenAI, or an OpenAI-compatible server.",
        advanced=True,
    )
    whisper_model: str = option(
        TRANSCRIBERS["whisper"].model, "Whisper model", "Model name at the server.", advanced=True
    )
    elevenlabs_url: str = option(
        TRANSCRIBERS["elevenlabs"].url, "ElevenLabs address", "Address of the service.", advanced=True
    )
    elevenlabs_model: str = option(
        TRANSCRIBERS["elevenlabs"].model, "ElevenLabs model", "Model name at the service.", advanced=True
    )
    gemini_url: str = option(CAPTIONERS["gemini"].url, "Gemini address", "Address of the service.", advanced=True)
    gemini_model: str = option(
        CAPTIONERS["gemini"].model,
        "Gemini model",
        "Model name at the service. The default alias follows Google's newest fast model.",
        advanced=True,
    )
    retries: int = option(
        4, "Retries", "How often a request to a busy service is repeated.", ge=0, le=10, advanced=True
    )
    timeout_s: float = option(300.0, "Timeout", "Limit for one request.", unit="s", gt=0, le=86_400, advanced=True)


def backend_names() -> list[str]:
    """Every captioner and transcriber, each name once."""
    return list(dict.fromkeys([*CAPTIONERS.names, *TRANSCRIBERS.names]))


def use_backend(config: CaptionJob, name: str) -> None:
    """Use one backend: as the captioner, or as the only transcriber if it writes no captions.

    Raises:
        ConfigError: unknown backend.
    """
    if name in TRANSCRIBERS and name not in CAPTIONERS:
        config.captioner, config.transcriber = NONE, name
    else:
        assign(config, "captioner", name)


register_job(
    "caption",
    config="acestep.captioning.configs:CaptionJob",
    run="acestep.captioning.run:caption_job",
    distributed=True,
)
