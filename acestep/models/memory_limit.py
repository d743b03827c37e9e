"""Use of a GPU by one job: its lock, and a limit of its memory where the driver would move memory to the computer.

When the memory of a GPU is full, the NVIDIA driver for Windows (WDDM) moves parts of it to system memory: the program
gets no error and becomes many times slower. With a limit of PyTorch's caching allocator, running out of memory is an
error, which the program handles.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from acestep.core.device_lock import lock_device
from acestep.core.errors import ConfigError
from acestep.core.events import LogMessage
from acestep.core.jobs import Context

LIMIT_VARIABLE = "ACESTEP_GPU_MEMORY_LIMIT"  # auto, off or a number of GB
_RESERVE_BYTES = 384 * 2**20  # for what PyTorch allocates outside of its caching allocator, and for the desktop
_LEAST_BYTES = 2**20
_GB = 2**30


@contextmanager
def use_device(device: str, activity: str, context: Context) -> Iterator[None]:
    """Lock ``device`` for this job while the block runs, and limit its memory.

    Raises:
        ConfigError, JobCancelled: as ``limit_memory`` and ``lock_device``.
    """
    with lock_device(device, activity, context):
        limit_memory(device, lambda message: context.emit(LogMessage(message=message)))
        yield


def limit_memory(device: str, report: Callable[[str], None]) -> None:
    """Limit the memory of a CUDA device that this process may allocate to what is free now. Reports limit and reason.

    On Linux nothing is limited, except in WSL. The environment variable ``ACESTEP_GPU_MEMORY_LIMIT`` turns the limit
    off or sets another one.

    Raises:
        ConfigError: the variable has another value.
    """
    limit_gb = _requested_gb()
    place = torch.device(device)
    if place.type != "cuda" or limit_gb == 0 or not torch.cuda.is_available():
        return
    if limit_gb is None and not _driver_moves_memory():
        return
    index = torch.cuda.current_device() if place.index is None else place.index
    free, total = torch.cuda.mem_get_info(index)
    if limit_gb is None:
        usable = free + torch.cuda.memory_reserved(index) - _RESERVE_BYTES
        reason = f"{free / _GB:.1f} of {total / _GB:.1f} GB were free, and beyond that Windows uses slow system memory"
    else:
        usable, reason = int(limit_gb * _GB), f"{LIMIT_VARIABLE} is {limit_gb:g}"
    usable = min(max(usable, _LEAST_BYTES), total)
    torch.cuda.set_per_process_memory_fraction(usable / total, index)
    report(f"memory of {device} limited to {usable / _GB:.1f} GB: {reason}")


def _requested_gb() -> float | None:
    """The limit that the environment variable sets in GB: None for auto, 0 for off. Raises ConfigError."""
    text = os.environ.get(LIMIT_VARIABLE, "").strip().lower()
    if text in ("", "auto"):
        return None
    try:
        limit_gb = 0.0 if text == "off" else float(text)
    except ValueError:
        limit_gb = -1.0
    if not 0 <= limit_gb < float("inf"):
        raise ConfigError(f"{LIMIT_VARIABLE} is {text!r}", hint="Set it to auto, off or the limit in GB, such as 7.5.")
    return limit_gb


def _driver_moves_memory() -> bool:
    """Whether this is Windows, or Linux in WSL, which uses the driver of Windows."""
    machine = platform.uname()
    return machine.system == "Windows" or "microsoft" in machine.release.lower()
