"""Encoding on several devices: a process for each, which takes every n-th song and writes nothing but its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from acestep.core.device_lock import lock_device
from acestep.core.errors import AceStepError, JobError
from acestep.core.events import Event, ItemFailed
from acestep.core.files import read_versioned, write_versioned
from acestep.core.job_folder import WORKERS
from acestep.core.jobs import Context
from acestep.core.workers import WorkerJob, run_workers
from acestep.models.checkpoint import find_checkpoint
from acestep.models.device import choose_devices, choose_dtype
from acestep.preprocessing.configs import EncodeJob, PreprocessJob
from acestep.preprocessing.encode import Encoder
from acestep.preprocessing.sample_sources import Song
from acestep.preprocessing.stages import Place
from acestep.tensors.record import TensorRecord, write_record

_KIND, _VERSION = "planned_songs", 1


def encode_shares(
    config: PreprocessJob, songs: list[Song], folder: Path, on_event: Callable[[int, Event], None]
) -> list[dict[str, Any]]:
    """Encode ``songs`` on ``config.devices`` devices; gives what ``encode_job`` does, for each.

    Args:
        folder: the run folder of the whole job.

    Raises:
        AceStepError: what ``run_workers`` raises.
    """
    shares = []
    for number, device in enumerate(choose_devices(config.device, config.devices)[: len(songs)]):
        file = folder / WORKERS / f"{number}.json"
        mine = [asdict(song) | {"audio": str(song.audio)} for song in songs[number :: config.devices]]
        write_versioned(file, _KIND, _VERSION, {"songs": mine})
        job = config.model_copy(update={"device": device.value, "devices": 1})
        shares.append(WorkerJob("encode", EncodeJob(songs=file.resolve(), job=job)))
    return run_workers(shares, folder, on_event)


def encode_job(config: EncodeJob, context: Context) -> dict[str, Any]:
    """Make the tensor files of planned songs. What fails is told as an event; the result tells the models' memory.

    Raises:
        CheckpointError, JobCancelled, JobError, StorageError.
    """
    job = config.job
    data = read_versioned(config.songs, _KIND, _VERSION, error=JobError)
    songs = [Song(**{**song, "audio": Path(song["audio"])}) for song in data["songs"]]

    def keep(song: Song, record: TensorRecord) -> Path:
        write_record(job.out / song.file, record)
        return job.out / song.file

    def refuse(name: str, problem: AceStepError) -> None:
        context.emit(ItemFailed(item=name, message=str(problem), hint=problem.hint))

    with lock_device(job.device, "preprocessing", context):
        place = Place(find_checkpoint(job.checkpoint), job.device, choose_dtype(job.device, job.dtype).value)
        encoder = Encoder(job, place, context, keep=keep, refuse=refuse)
        encoder.encode(songs)
    return {"peak_model_bytes": encoder.live.peak_bytes}
