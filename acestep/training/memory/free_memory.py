"""The free memory of the device of a run."""

from __future__ import annotations

import torch

from acestep.core import system_memory


def free_bytes(device: torch.device, num_processes: int = 1) -> int | None:
    """Free bytes for this process, with the memory that PyTorch has reserved and does not use; None if unknown.

    ``num_processes`` processes of the run share a CPU. Apple's GPUs use the memory of the computer.
    """
    if device.type in ("cuda", "xpu"):
        module = torch.cuda if device.type == "cuda" else torch.xpu
        free, _ = module.mem_get_info(device)
        return int(free + module.memory_reserved(device) - module.memory_allocated(device))
    free_here = system_memory.free_bytes()
    return free_here // num_processes if free_here is not None and device.type == "cpu" else free_here
