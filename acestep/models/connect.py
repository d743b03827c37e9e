"""Connects the processes of one job through torch.distributed."""

from __future__ import annotations

import time
import uuid
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch.distributed.rendezvous import rendezvous

from acestep.core.errors import WorkerCrashed
from acestep.core.launcher import Launch

_LAUNCHER_TIMEOUT = timedelta(minutes=30)
_WORKER_TIMEOUT = timedelta(days=7)
_ANSWER_TIMEOUT = timedelta(seconds=1)
_CURRENT = "acestep/attempt"


def collective_timeout(launch: Launch) -> timedelta:
    """How long a process waits for another that saves, makes audio previews or waits for its GPU.

    A process that exits closes its connections, so the others notice that at once; the timeout is for machines that
    fail. Workers on one machine need none, because the main process watches them.
    """
    return _LAUNCHER_TIMEOUT if launch.launcher else _WORKER_TIMEOUT


def connect(launch: Launch, device: torch.device) -> None:
    """Wait for all processes of ``launch``, and initialize torch.distributed with NCCL for CUDA, otherwise with gloo.

    ``MASTER_ADDR`` and ``MASTER_PORT`` are set: by torchrun, ``detect_launch`` or the main process of workers.

    Raises:
        WorkerCrashed: not all processes were started.
    """
    if distributed.is_initialized():
        return
    rank, world_size, timeout = launch.rank, launch.world_size, collective_timeout(launch)
    uses_nccl = device.type == "cuda" and distributed.is_nccl_available()  # Windows has none
    try:
        store, _, _ = next(rendezvous("env://", rank, world_size, timeout=timeout))
        if launch.launcher == "torchrun":
            store = distributed.PrefixStore(_agree_on_prefix(store, launch), store)  # type: ignore[attr-defined]
        distributed.init_process_group(
            "nccl" if uses_nccl else "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timeout,
            device_id=torch.device("cuda", device.index or 0) if uses_nccl else None,
        )
    except RuntimeError as problem:
        raise WorkerCrashed(
            f"process {rank + 1} of {world_size} could not connect to the others ({problem})",
            hint="Start all of them with torchrun or srun, on machines that reach each other.",
        ) from problem


def _agree_on_prefix(store: Any, launch: Launch) -> str:
    """A prefix for the keys of this attempt, chosen by rank 0.

    The agent keeps its store when it restarts the processes (torch 2.11), with the addresses of the former ones. So a
    process cannot know whether a prefix is of this attempt until rank 0 answers to a name that the process chose.
    """
    own = uuid.uuid4().hex
    if launch.is_main:
        store.set(_CURRENT, own)
        for rank in range(1, launch.world_size):
            store.set(f"{own}/accepted/{store.get(f'{own}/{rank}').decode()}", "")
        return own
    deadline = time.monotonic() + collective_timeout(launch).total_seconds()
    while True:
        prefix: str = store.get(_CURRENT).decode()
        store.set(f"{prefix}/{launch.rank}", own)
        try:
            store.wait([f"{prefix}/accepted/{own}"], _ANSWER_TIMEOUT)
        except distributed.DistStoreError:
            if time.monotonic() > deadline:
                raise
        else:
            return prefix
