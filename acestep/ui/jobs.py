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
from acestep.core.events import ItemFailed, PhaseStarted, Progressed, Saved, Started
from acestep.core.jobs import Context, register_job, write_job
from acestep.core.phases import PhaseProgress
from acestep.models.configs import GenerationConfig
from acestep.ui.service import SERVICE, require_checkpoint

if TYPE_CHECKING:
    from acestep.handler import AceStepHandler

GENERATION = "piece"  # the name of the audio file without its suffix
AudioFormat = Literal["wav", "flac", "mp3", "m4a", "aac", "opus"]


class GenerateJob(Config):
    """One generation, with an adapter or without one."""

    checkpoint: str = option(..., "Model", "Folder of the model.")
    adapter: Path | None = option(None, "Adapter", "Folder or file of an adapter. Empty: the base model.")
    strength: float = option(
        1.0, "Strength", "0 is the base model, 1 the adapter as trained; above 1 exaggerates it.", ge=0.0, le=3.0
    )
    audio_format: AudioFormat = option("wav", "Audio Format", "WAV and FLAC are lossless, the others smaller.")
    request: GenerationConfig = group(GenerationConfig, "Music")


class CompareJob(Config):
    """The same request with several adapters, for a comparison."""

    checkpoint: str = option(..., "Model", "Folder of the model.")
    adapters: list[str] = option(..., "Checkpoints", "Adapters; an empty value is the base model.", min_length=1)
    strength: float = option(1.0, "Strength", "Of each adapter.", ge=0.0, le=3.0)
    audio_format: AudioFormat = option("wav", "Audio Format", "WAV and FLAC are lossless, the others smaller.")
    request: GenerationConfig = group(GenerationConfig, "Music")

    def each(self) -> list[GenerateJob]:
        """One job per adapter."""
        common: dict[str, Any] = {**self.model_dump(include={"checkpoint", "audio_format"}), "request": self.request}
        return [
            GenerateJob(adapter=Path(adapter), strength=self.strength, **common) if adapter else GenerateJob(**common)
            for adapter in self.adapters
        ]


class DownloadJob(Config):
    """A download of models."""

    names: list[str] = option(..., "Models", "Names from the catalog.")
    root: Path = option(..., "Checkpoints Folder", "Where the models are saved.")
    source: Literal["auto", "huggingface", "modelscope"] = option(
        "auto", "Source", "auto uses the one that responds, and the other if it fails."
    )


def generate_job(config: GenerateJob, context: Context) -> dict[str, Any]:
    """Write ``piece`` with the suffix of its format into the job folder, with the models that the pages share.

    Raises:
        CheckpointError, AdapterError, ModelMismatch, JobCancelled, StorageError.
    """
    handler = _handler_for(config, PhaseProgress(context.emit, "Loading the model"))
    context.emit(PhaseStarted(phase="Generating"))

    def on_step(step: int, steps: int) -> None:
        if step == 1:
            context.emit(Started(job="generate", total=steps, unit="steps"))
        context.emit(Progressed(done=step, total=steps, note="decoding audio" if step == steps else ""))

    return _generate(handler, config, context.folder, context, on_step)


def compare_job(config: CompareJob, context: Context) -> dict[str, Any]:
    """Generate with each adapter in turn, each into its own folder beside the job folder, like single generations.

    An adapter that cannot be loaded is skipped. Raises CheckpointError, JobCancelled, StorageError.
    """
    jobs = config.each()
    SERVICE.initialize(require_checkpoint(config.checkpoint), PhaseProgress(context.emit, "Loading the model"))
    context.emit(Started(job="compare", total=len(jobs), unit="generations"))
    audio = []
    for number, job in enumerate(jobs, 1):
        context.stop_if_cancelled()
        folder = context.folder.with_name(f"{context.folder.name}-{number}")
        name = str(job.adapter or "base model")
        try:
            handler = _handler_for(job)
            write_job(folder, "generate", job)
            audio.append(_generate(handler, job, folder, context)["audio"])
        except (AdapterError, ModelMismatch) as error:
            context.emit(ItemFailed(item=name, message=str(error), hint=error.hint))
        context.emit(Progressed(done=number, total=len(jobs), note=name))
    return {"audio": audio}


def _handler_for(job: GenerateJob, report: Callable[[int, int], None] = lambda done, total: None) -> AceStepHandler:
    """The shared models with the adapter of ``job``. Raises CheckpointError, AdapterError, ModelMismatch."""
    handler = SERVICE.initialize(require_checkpoint(job.checkpoint), report)
    if job.adapter is None:
        handler.unload_adapter()
    else:
        handler.load_adapter(job.adapter, strength=job.strength)
    return handler


def _generate(
    handler: AceStepHandler,
    job: GenerateJob,
    folder: Path,
    context: Context,
    on_step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    from acestep.audio.files import write_audio

    audio = handler.generate(job.request, on_step=on_step, should_stop=lambda: context.cancelled)
    path = folder / f"{GENERATION}.{job.audio_format}"
    write_audio(path, audio)
    context.emit(Saved(path=str(path), role="audio"))
    return {"audio": str(path), "seconds": audio.shape[1] / 48_000}


def download_job(config: DownloadJob, context: Context) -> dict[str, Any]:
    """Download models. Raises DownloadError, DiskFull, NotWritable, JobBusy, JobCancelled."""
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
