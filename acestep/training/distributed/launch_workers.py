"""Launches one process per device. They connect through the environment variables of torch.distributed.

With several nodes, each runs the same command with NODE_RANK set to its number and MASTER_ADDR and MASTER_PORT set to
the address of the first one. Model, tensors and run folder must be on a file system that all nodes share.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from acestep.core.errors import ConfigError
from acestep.core.jobs import Context
from acestep.core.workers import WorkerJob, run_workers
from acestep.training.configs import TrainJob
from acestep.training.state.run_folder import RunFolder


def train_in_workers(config: TrainJob, context: Context) -> dict[str, Any]:
    """Launch the processes of this node and wait for them. Gives the result of ``train_job``, which each of them runs.

    Raises:
        TrainingError: the folder already holds a run.
        ConfigError: there are several nodes, but an environment variable is missing.
        JobCancelled, WorkerCrashed, and any other error that ended the run.
    """
    if config.resume is None:
        RunFolder(config.out).require_empty()
    node, common = _common_environment(config)
    shares = [WorkerJob("train", config, {**common, **_own(config, node, local)}) for local in range(config.devices)]
    return run_workers(shares, context.folder, lambda number, event: context.emit(event))[0]


def _own(config: TrainJob, node: int, local: int) -> dict[str, str]:
    return {"RANK": str(node * config.devices + local), "LOCAL_RANK": str(local)}


def _common_environment(config: TrainJob) -> tuple[int, dict[str, str]]:
    """The rank of this node, and the environment variables that its processes share."""
    if config.num_nodes == 1:
        variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    else:
        variables = {name: os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")}
        if missing := [name for name, value in variables.items() if not value]:
            raise ConfigError(
                f"num_nodes is {config.num_nodes}, but {', '.join(missing)} is not set in the environment",
                hint="Number the nodes with NODE_RANK from 0; set MASTER_ADDR and MASTER_PORT to the first one's.",
            )
    return int(variables["NODE_RANK"]), {**variables, "WORLD_SIZE": str(config.num_processes)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
