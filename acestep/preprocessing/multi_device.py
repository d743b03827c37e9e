"""Encoding in several processes, each with every n-th sample: one per device of this machine, or those of a launcher.

All but the main process, which is rank 0 of those that torchrun or SLURM started, write only tensor files. The main
process writes the manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from acestep.core.errors import AceStepError, JobError
from acestep.core.events import Event, ItemFailed
from acestep.core.files import read_versioned, write_versioned
from acestep.core.job_folder import WORKERS
from acestep.core.jobs import Context
from acestep.core.workers import WorkerJob, run_workers
from acestep.models.checkpoint import find_checkpoint
from acestep.models.device import choose_devices, choose_dtype, encoder_dtype
from acestep.models.memory_limit import use_device
from acestep.models.process_group import ProcessGroup
from acestep.preprocessing.configs import EncodeJob, PreprocessJob
from acestep.preprocessing.encode import Encoder
from acestep.preprocessing.sample_sources import SampleSource
from acestep.preprocessing.stages import LoadOptions
from acestep.tensors.record import TensorRecord, write_record

_KIND, _VERSION = "planned_songs", 1


def encode_on_devices(
    config: PreprocessJob, samples: list[SampleSource], folder: Path, on_event: Callable[[int, Event], None]
) -> list[dict[str, Any]]:
    """Encode ``samples`` on ``config.devices`` devices. Returns the result of ``encode_job`` for each process.

    Args:
        folder: the job folder of the whole job.
        on_event: called with the number of the worker and its event.

    Raises:
        AceStepError: any error of ``run_workers``.
    """
    workers = []
    for number, device in enumerate(choose_devices(config.device, config.devices)[: len(samples)]):
        file = folder / WORKERS / f"{number}.json"
        shard = [asdict(sample) | {"audio": str(sample.audio)} for sample in samples[number :: config.devices]]
        write_versioned(file, _KIND, _VERSION, {"songs": shard})
        job = config.model_copy(update={"device": device.value, "devices": 1})
        workers.append(WorkerJob("encode", EncodeJob(songs=file.resolve(), job=job)))
    return run_workers(workers, folder, on_event)


def encode_job(config: EncodeJob, context: Context) -> dict[str, Any]:
    """Write the tensor files of the samples in ``config.songs``. A sample that fails is reported as an event.

    Returns:
        ``peak_model_bytes``: peak memory of the loaded models in bytes.

    Raises:
        CheckpointError, JobCancelled, JobError, StorageError.
    """
    data = read_versioned(config.songs, _KIND, _VERSION, error=JobError)
    samples = [SampleSource(**{**fields, "audio": Path(fields["audio"])}) for fields in data["songs"]]
    share = _encode_share(config.job, samples, context)
    return {"peak_model_bytes": share.peak_model_bytes}


@dataclass(frozen=True, slots=True)
class Share:
    """What a process did with its samples: those that failed by name, and the peak memory of its models."""

    failed: list[tuple[str, AceStepError]]
    peak_model_bytes: int = 0


def encode_launched_share(config: PreprocessJob, context: Context, processes: ProcessGroup) -> None:
    """Write the tensor files of the share of this process, which is not rank 0. Raises as ``encode_job``."""
    samples: Any = processes.all_gather(None)[0]
    samples = samples[processes.rank :: processes.world_size]
    processes.all_gather(_encode_share(config, samples, context) if samples else Share([]))


def _encode_share(job: PreprocessJob, samples: list[SampleSource], context: Context) -> Share:
    failed = []

    def save(sample: SampleSource, record: TensorRecord) -> Path:
        write_record(job.out / sample.file, record)
        return job.out / sample.file

    def report_failure(name: str, error: AceStepError) -> None:
        failed.append((name, error))
        context.emit(ItemFailed(item=name, message=str(error), hint=error.hint))

    with use_device(job.device, "preprocessing", context):
        dtype = encoder_dtype(choose_dtype(job.device, job.dtype).value)
        load_options = LoadOptions(find_checkpoint(job.checkpoint), job.device, dtype)
        encoder = Encoder(job, load_options, context, save=save, report_failure=report_failure)
        encoder.encode(samples)
    return Share(failed, encoder.model_memory.peak_bytes)
