"""The long jobs that only the pages need. Importing this does not import torch; doing them does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from acestep.core.config import Config, group, option
from acestep.core.events import Noted, Progressed, Saved, Started
from acestep.core.jobs import Context
from acestep.models.configs import GenerationConfig
from acestep.ui.service import SERVICE, require_checkpoint

PIECE = "piece.wav"


class GenerateJob(Config):
    """One piece of music, with an adapter or without."""

    checkpoint: str = option(..., "Model", "Folder of the model.")
    adapter: Path | None = option(None, "Adapter", "Folder or file of an adapter; empty for the model alone.")
    strength: float = option(
        1.0, "Strength", "0 is the model alone, 1 the adapter as trained, more exaggerates.", ge=0.0, le=3.0
    )
    request: GenerationConfig = group(GenerationConfig, "Music")


class DownloadJob(Config):
    """Models to fetch."""

    names: list[str] = option(..., "Models", "Names of the catalog.")
    root: Path = option(..., "Checkpoints Folder", "Where the models are put.")
    source: Literal["auto", "huggingface", "modelscope"] = option(
        "auto", "Source", "auto takes the one that answers, and the other when it fails."
    )


def generate_job(config: GenerateJob, context: Context) -> dict[str, Any]:
    """Write ``piece.wav`` into the job's folder, with the models that the pages share.

    Raises:
        CheckpointError, AdapterError, ModelMismatch, JobCancelled, StorageError.
    """
    from acestep.audio.files import write_audio

    context.emit(Noted(message="loading the model"))
    handler = SERVICE.initialize(require_checkpoint(config.checkpoint))
    context.stop_if_cancelled()
    if config.adapter is None:
        handler.unload_adapter()
    else:
        handler.load_adapter(config.adapter, strength=config.strength)
    context.emit(Noted(message="making music"))

    def tell(step: int, steps: int) -> None:
        if step == 1:
            context.emit(Started(job="generate", total=steps, unit="steps"))
        context.emit(Progressed(done=step, total=steps, note="turning the result into sound" if step == steps else ""))

    audio = handler.generate(config.request, on_step=tell, should_stop=lambda: context.cancelled)
    path = context.folder / PIECE
    write_audio(path, audio)
    context.emit(Saved(path=str(path), role="audio"))
    return {"audio": str(path), "seconds": audio.shape[1] / 48_000}


def download_job(config: DownloadJob, context: Context) -> dict[str, Any]:
    """Fetch models. Raises DownloadError, DiskFull, NotWritable, JobBusy, JobCancelled."""
    from acestep.models.download import download

    folders = download(
        config.names,
        config.root,
        source=config.source,
        on_progress=context.emit,
        should_stop=lambda: context.cancelled,
    )
    return {"folders": [str(folder) for folder in folders]}
