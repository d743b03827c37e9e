"""Launches one process per device of this machine. They connect through the environment variables of torch.distributed.

The processes of several machines are started by torchrun or SLURM (``core.launcher``).
"""

from __future__ import annotations

import socket
from typing import Any

from acestep.core.jobs import Context
from acestep.core.workers import WorkerJob, run_workers
from acestep.training.configs import TrainJob
from acestep.training.state.run_folder import RunFolder


def train_in_workers(config: TrainJob, context: Context) -> dict[str, Any]:
    """Launch one process per device and wait for them. Gives the result of ``train_job``, which each of them runs.

    Raises:
        TrainingError: the folder already holds a run.
        JobCancelled, WorkerCrashed, and any other error that ended the run.
    """
    if config.resume is None:
        RunFolder(config.out).require_empty()
    shares = [WorkerJob("train", config, variables) for variables in worker_variables(config.devices)]
    return run_workers(shares, context.folder, lambda number, event: context.emit(event))[0]


def worker_variables(world_size: int) -> list[dict[str, str]]:
    """The environment variables of each process (``core.launcher.launch_of_worker``)."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world_size)}
    return [common | {"RANK": str(rank)} for rank in range(world_size)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
