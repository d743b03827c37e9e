"""Training on several devices: a process for each, started here, that find each other by the usual names.

Several nodes run the same command, each with NODE_RANK set to its number, and with MASTER_ADDR and MASTER_PORT set to
where the first one is reached. The model, the tensors and the run folder lie on a disk that all of them see.
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
    """Start this node's part of the run and wait for its end. Gives what ``train_job`` does, which each of them runs.

    Raises:
        TrainingError: a new run would mix with the one that is there.
        ConfigError: several nodes, and this one is not told which it is.
        JobCancelled, WorkerCrashed: and what else ended the run.
    """
    if config.resume is None:
        RunFolder(config.out).require_empty()
    node, common = _common(config)
    shares = [WorkerJob("train", config, {**common, **_own(config, node, local)}) for local in range(config.devices)]
    return run_workers(shares, context.folder, lambda number, event: context.emit(event))[0]


def _own(config: TrainJob, node: int, local: int) -> dict[str, str]:
    return {"RANK": str(node * config.devices + local), "LOCAL_RANK": str(local)}


def _common(config: TrainJob) -> tuple[int, dict[str, str]]:
    """The number of this node, and what each of its processes finds in its environment."""
    if config.num_nodes == 1:
        placement = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
    else:
        placement = {name: os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")}
        if missing := [name for name, value in placement.items() if not value]:
            raise ConfigError(
                f"num_nodes is {config.num_nodes}, and {', '.join(missing)} is not set in the environment",
                hint="Set NODE_RANK to 0 on the first node, 1 on the next, and the others to where the first is.",
            )
    if os.name == "nt":  # PyTorch is built without libuv there, and asks for it by default
        placement["USE_LIBUV"] = "0"
    return int(placement["NODE_RANK"]), {**placement, "WORLD_SIZE": str(config.num_processes)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
