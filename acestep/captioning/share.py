"""Captioning on several devices: a process for each, which labels every n-th song as a job of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from acestep.captioning.cloud import keys_for_others
from acestep.captioning.configs import CaptionJob
from acestep.core.events import Event
from acestep.core.workers import WorkerJob, run_workers
from acestep.models.device import choose_devices


def caption_shares(
    config: CaptionJob, songs: Sequence[str], folder: Path, on_event: Callable[[int, Event], None]
) -> list[dict[str, Any]]:
    """Label ``songs``, paths below the audio folder, on ``config.devices`` devices; gives the result of each job.

    Args:
        folder: the run folder of the whole job.

    Raises:
        AceStepError: what ``run_workers`` raises.
    """
    shares = []
    for number, device in enumerate(choose_devices(config.device, config.devices)[: len(songs)]):
        mine = {"only": list(songs[number :: config.devices]), "device": device.value, "devices": 1, "csv": None}
        shares.append(WorkerJob("caption", config.model_copy(update=mine), keys_for_others()))
    return run_workers(shares, folder, on_event)
