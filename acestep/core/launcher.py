"""Which of several processes of one job this is, if torchrun or SLURM started them, on one machine or more.

Each process runs the same command. Rank 0 uses the folder of the job and is the only one that reports; the others use
folders in its ``workers/``. The processes need a file system that all machines share.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from acestep.core.errors import ConfigError, WorkerCrashed
from acestep.core.job_folder import JobFolder


@dataclass(frozen=True, slots=True)
class Launch:
    """This process among the processes of its job.

    Attributes:
        launcher: what started the processes; "" for a single process and for the workers of ``core.workers``.
        local_rank: the rank among the ``local_world_size`` processes on this machine.
        agent: the process ID of the torchrun agent of this machine; 0 if there is none.
    """

    launcher: Literal["", "torchrun", "srun"] = ""
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    agent: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes the results and reports."""
        return self.rank == 0

    def own_folder(self, folder: Path) -> Path:
        """The job folder of this process, for a job in ``folder``."""
        return folder if self.is_main else JobFolder(folder).worker(self.rank).path

    def require_agent(self) -> None:
        """Raises WorkerCrashed if the torchrun agent that started this process is gone.

        Such a process is no longer restarted or stopped. On Windows this is not noticed.
        """
        if self.agent and os.getppid() != self.agent:
            raise WorkerCrashed(
                f"the torchrun agent of process {self.rank + 1} of {self.world_size} is gone",
                hint="Run the same command again to resume.",
            )


SINGLE = Launch()


def launch_of_worker() -> Launch:
    """The launch of a worker of ``core.workers``, which sets these variables, all on this machine."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return Launch(rank=rank, world_size=world_size, local_rank=rank, local_world_size=world_size)


def detect_launch() -> Launch:
    """The launch that the environment variables describe, as Lightning Fabric detects it.

    A shell in a SLURM allocation is a single process, unless the job in it is started with srun.

    Raises:
        ConfigError: the options of srun do not state the number of processes of each machine.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) == 1:
        return SINGLE
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment  # imports torch
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric recommends srun in interactive shells
        if TorchElasticEnvironment.detect():
            return _launch("torchrun", TorchElasticEnvironment(), "LOCAL_WORLD_SIZE", agent=os.getppid())
        if not SLURMEnvironment.detect():
            return SINGLE
        try:
            found = SLURMEnvironment()
        except RuntimeError as problem:
            raise ConfigError(str(problem), hint="Start srun with --ntasks-per-node instead of --ntasks.") from None
    os.environ |= {"MASTER_ADDR": found.main_address, "MASTER_PORT": str(found.main_port)}
    return _launch("srun", found, "SLURM_NTASKS_PER_NODE")


def _launch(launcher: Literal["torchrun", "srun"], found: Any, local_world_size: str, *, agent: int = 0) -> Launch:
    """The launch that Fabric's environment ``found`` describes, with the name of the variable that it lacks."""
    return Launch(
        launcher,
        rank=found.global_rank(),
        world_size=found.world_size(),
        local_rank=found.local_rank(),
        local_world_size=int(os.environ.get(local_world_size, 1)),
        agent=agent,
    )
