"""The free memory of the device of a run."""

from __future__ import annotations

import torch

from acestep.core import system_memory


def free_bytes(device: torch.device, num_processes: int = 1) -> int | None:
    """Free bytes for this process, with the memory that PyTorch has reserved and does not use; None if unknown.

    A limit of this process (models/memory_limit.py) counts.

    ``num_processes`` processes of the run share a CPU. Apple's GPUs use the memory of the computer.
    """
    if device.type in ("cuda", "xpu"):
        module = torch.cuda if device.type == "cuda" else torch.xpu
        free, total = module.mem_get_info(device)
        reserved, used = module.memory_reserved(device), module.memory_allocated(device)
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            free = min(free, int(torch.cuda.get_per_process_memory_fraction(index) * total) - reserved)
        return max(0, int(free + reserved - used))
    free_here = system_memory.free_bytes()
    return free_here // num_processes if free_here is not None and device.type == "cpu" else free_here
