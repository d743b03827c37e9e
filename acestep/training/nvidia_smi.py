"""Queries nvidia-smi. Needs no torch; without nvidia-smi, everything is unknown."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import PureWindowsPath

from acestep.core.tool_output import output_lines

TIMEOUT_S = 5
_MIB_PER_GB = 1024


@dataclass(frozen=True, slots=True)
class GPUProcess:
    """A process on the GPU. ``memory_gb`` is None where the system does not report it (Windows)."""

    name: str
    pid: int
    memory_gb: float | None

    def __str__(self) -> str:
        memory = "" if self.memory_gb is None else f", {self.memory_gb:.1f} GB"
        return f"{self.name} (PID {self.pid}{memory})"


@dataclass(frozen=True, slots=True)
class GPUMemory:
    """The name of a GPU and its memory, all processes included."""

    name: str
    used_gb: float
    total_gb: float


def driver_version() -> str:
    """The driver version, such as ``570.86.15``; "" if unknown."""
    return next((version for (version,) in _ask("--query-gpu=driver_version", 1)), "")


def gpu_memory() -> GPUMemory | None:
    """Of the first visible GPU."""
    for used, total, name in _ask("--query-gpu=memory.used,memory.total,name", 3):
        if used.isdecimal() and total.isdecimal():
            return GPUMemory(name, int(used) / _MIB_PER_GB, int(total) / _MIB_PER_GB)
    return None


def compute_capability() -> tuple[int, int] | None:
    """Of the first visible GPU, such as (8, 6); None if unknown, also to drivers before 510."""
    for (version,) in _ask("--query-gpu=compute_cap", 1):
        if found := re.fullmatch(r"(\d+)\.(\d+)", version):
            return int(found[1]), int(found[2])
    return None


def other_processes() -> list[GPUProcess]:
    """The other processes on that GPU, largest first."""
    found = []
    for pid, memory, name in _ask("--query-compute-apps=pid,used_memory,process_name", 3):
        if pid.isdecimal() and int(pid) != os.getpid():
            memory_gb = int(memory) / _MIB_PER_GB if memory.isdecimal() else None
            found.append(GPUProcess(PureWindowsPath(name).name, int(pid), memory_gb))  # splits at both slashes
    return sorted(found, key=lambda process: -(process.memory_gb or 0))


def _ask(query: str, num_columns: int) -> list[list[str]]:
    """The rows of a query; the last column can contain commas."""
    index = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    lines = output_lines(["nvidia-smi", query, "--format=csv,noheader,nounits", "-i", index], timeout_s=TIMEOUT_S)
    rows = [[part.strip() for part in line.split(",", num_columns - 1)] for line in lines]
    return [row for row in rows if len(row) == num_columns]
