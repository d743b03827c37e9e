"""The jobs of the pages. Importing this module registers every job of the program and does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import acestep.captioning.configs
import acestep.exporting.configs
import acestep.preprocessing.configs
import acestep.training.configs
import acestep.training.evaluation.configs  # noqa: F401
from acestep.core.config import Config, group, option
from acestep.core.errors import AdapterError, ModelMismatch
from acestep.core.events import ItemFailed, LogMessage, Progressed, Saved, Started
from acestep.core.jobs import Context, register_job, write_job
from acestep.models.configs import GenerationConfig
from acestep.ui.service import SERVICE, require_checkpoint

if TYPE_CHECKING:
    from acestep.handler import AceStepHandler

GENERATION = "piece.wav"


class GenerateJob(Config):
    """One piece of music, with an adapter or without."""

    checkpoint: str = option(..., "Model", "Folder of the model.")
    adapter: Path | None = option(None, "Adapter", "Folder or file of an adapter; empty for the model alone.")
    strength: float = option(
        1.0, "Strength", "0 is the model alone, 1 the adapter as trained, more exaggerates.", ge=0.0, le=3.0
    )
    request: GenerationConfig = group(GenerationConfig, "Music")


class CompareJob(Config):
    """The same piece of music with several adapters, one after the other, to be heard side by side."""

    checkpoint: str = option(..., "Model", "Folder of the model.")
    adapters: list[str] = option(..., "Made by", "Adapters, and an empty text for the model alone.", min_length=1)
    strength: float = option(1.0, "Strength", "Of each adapter.", ge=0.0, le=3.0)
    request: GenerationConfig = group(GenerationConfig, "Music")

    def each(self) -> list[GenerateJob]:
        """The single pieces."""
        common: dict[str, Any] = {"checkpoint": self.checkpoint, "request": self.request}
        return [
            GenerateJob(adapter=Path(adapter), strength=self.strength, **common) if adapter else GenerateJob(**common)
            for adapter in self.adapters
        ]


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
    context.emit(LogMessage(message="loading the model"))
    handler = _handler_for(config)
    context.emit(LogMessage(message="making music"))

    def tell(step: int, steps: int) -> None:
        if step == 1:
            context.emit(Started(job="generate", total=steps, unit="steps"))
        context.emit(Progressed(done=step, total=steps, note="turning the result into sound" if step == steps else ""))

    return _make(handler, config, context.folder, context, tell)


def compare_job(config: CompareJob, context: Context) -> dict[str, Any]:
    """One piece after the other, each in a folder of its own beside the job's, as if it had been asked for alone.

    An adapter that cannot be used is left out. Raises CheckpointError, JobCancelled, StorageError.
    """
    pieces = config.each()
    SERVICE.initialize(require_checkpoint(config.checkpoint))
    context.emit(Started(job="compare", total=len(pieces), unit="pieces"))
    made = []
    for number, piece in enumerate(pieces, 1):
        context.stop_if_cancelled()
        folder = context.folder.with_name(f"{context.folder.name}-{number}")
        name = str(piece.adapter or "model alone")
        try:
            handler = _handler_for(piece)
            write_job(folder, "generate", piece)
            made.append(_make(handler, piece, folder, context)["audio"])
        except (AdapterError, ModelMismatch) as error:
            context.emit(ItemFailed(item=name, message=str(error), hint=error.hint))
        context.emit(Progressed(done=number, total=len(pieces), note=name))
    return {"audio": made}


def _handler_for(piece: GenerateJob) -> AceStepHandler:
    """The shared models with the adapter of ``piece``. Raises CheckpointError, AdapterError, ModelMismatch."""
    handler = SERVICE.initialize(require_checkpoint(piece.checkpoint))
    if piece.adapter is None:
        handler.unload_adapter()
    else:
        handler.load_adapter(piece.adapter, strength=piece.strength)
    return handler


def _make(
    handler: AceStepHandler,
    piece: GenerateJob,
    folder: Path,
    context: Context,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    from acestep.audio.files import write_audio

    audio = handler.generate(piece.request, on_step=tell, should_stop=lambda: context.cancelled)
    path = folder / GENERATION
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


register_job("compare", config="acestep.ui.jobs:CompareJob", run="acestep.ui.jobs:compare_job")
register_job("download", config="acestep.ui.jobs:DownloadJob", run="acestep.ui.jobs:download_job")
register_job("generate", config="acestep.ui.jobs:GenerateJob", run="acestep.ui.jobs:generate_job")
