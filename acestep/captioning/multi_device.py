"""Captioning on several devices: one process per device, each runs a job with every nth song."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acestep.captioning.api_keys import typed_keys_as_environment
from acestep.captioning.configs import CaptionJob
from acestep.core.events import Event
from acestep.core.workers import WorkerJob, run_workers
from acestep.models.device import choose_devices


def caption_on_devices(
    config: CaptionJob, songs: Sequence[str], folder: Path, on_event: Callable[[int, Event], None]
) -> list[dict[str, Any]]:
    """Label ``songs`` on ``config.devices`` devices. Returns the result of each process.

    Args:
        songs: paths below the audio folder.
        folder: the folder of the main job.

    Raises:
        AceStepError: any error of ``run_workers``.
    """
    shares = []
    for number, device in enumerate(choose_devices(config.device, config.devices)[: len(songs)]):
        changes = {"only": list(songs[number :: config.devices]), "device": device.value, "devices": 1, "csv": None}
        shares.append(WorkerJob("caption", config.model_copy(update=changes), typed_keys_as_environment()))
    return run_workers(shares, folder, on_event)
