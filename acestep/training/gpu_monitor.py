"""GPU memory: total, used, by which processes, and a monitor that samples it during a job.

Importing this does not import torch, so a page can show the GPU before any model is loaded.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from loguru import logger

from acestep.core.tool_output import output_lines
from acestep.training.nvidia_smi import (
    GPUProcess,
    compute_capability,
    driver_version,
    gpu_memory,
    other_processes,
)

ALERT_PCT = 92.0
POLL_S = 10.0
REARM_SHARE = 0.9  # the next alert needs the usage to fall below this fraction of the threshold first
HISTORY = 1000  # number of readings to keep; the summary covers all
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class GPUSnapshot:
    """One reading in MiB. ``free_mb`` and ``total_mb`` are for the whole device, the other two for this process."""

    timestamp: float
    allocated_mb: float
    reserved_mb: float
    free_mb: float
    total_mb: float

    @property
    def used_mb(self) -> float:
        """Memory used by all processes."""
        return self.total_mb - self.free_mb

    @property
    def utilization_pct(self) -> float:
        """Used share of the device memory, by all processes."""
        return 100 * self.used_mb / self.total_mb if self.total_mb else 0.0


@dataclass(frozen=True, slots=True)
class VRAMStatus:
    """Memory usage of the GPU, and the processes on it. ``bf16``: it computes in bf16, as far as is known."""

    name: str
    used_gb: float
    total_gb: float
    others: list[GPUProcess]
    bf16: bool = True

    @property
    def free_gb(self) -> float:
        return self.total_gb - self.used_gb

    @property
    def level(self) -> Literal["ample", "enough", "low"]:
        """Whether the free memory suffices for training: at least 16 GB, at least 8 GB, or less."""
        return "ample" if self.free_gb >= 16 else "enough" if self.free_gb >= 8 else "low"

    def __str__(self) -> str:
        share = 100 * self.used_gb / self.total_gb if self.total_gb else 0
        used = f"{self.used_gb:.1f} of {self.total_gb:.1f} GB used ({share:.0f} %), {self.free_gb:.1f} GB free"
        others = f"; other processes: {', '.join(map(str, self.others))}" if self.others else ""
        return f"{self.name}: {used}{others}"


class GPUMonitor:
    """Reads the memory every few seconds in a background thread, warns when it gets scarce, and sums up.

    ``read`` returns one reading, or None without a GPU; by default torch is queried for ``device_index``.
    """

    def __init__(
        self,
        alert_threshold_pct: float = ALERT_PCT,
        poll_interval_sec: float = POLL_S,
        device_index: int = 0,
        *,
        read: Callable[[], GPUSnapshot | None] | None = None,
    ) -> None:
        self.alert_threshold_pct = alert_threshold_pct
        self.poll_interval_sec = poll_interval_sec
        self._read = read or (lambda: read_memory(device_index))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._alert: Callable[[GPUSnapshot], None] | None = None
        self.reset()

    def reset(self) -> None:
        """Discard all readings."""
        with self._lock:
            self.history: deque[GPUSnapshot] = deque(maxlen=HISTORY)
            self._armed = True
            self._count = 0
            self._sums = {"allocated_mb": 0.0, "utilization_pct": 0.0}
            self._peaks = {"allocated_mb": 0.0, "reserved_mb": 0.0, "used_mb": 0.0}

    def start(self, alert_callback: Callable[[GPUSnapshot], None] | None = None) -> None:
        """Start polling. ``alert_callback`` runs in the polling thread each time usage reaches the threshold."""
        self.stop()
        self._alert = alert_callback
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(self._stop,), name="GPU monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop polling. The readings are kept."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout=5)
        self._thread = None

    def snapshot(self) -> GPUSnapshot | None:
        """Take one reading now, included in the statistics. None without a GPU."""
        reading = self._read()
        if reading is None:
            return None
        with self._lock:
            self.history.append(reading)
            self._count += 1
            for name in self._sums:
                self._sums[name] += getattr(reading, name)
            for name in self._peaks:
                self._peaks[name] = max(self._peaks[name], getattr(reading, name))
            alert = self._armed and reading.utilization_pct >= self.alert_threshold_pct
            rearm = reading.utilization_pct < REARM_SHARE * self.alert_threshold_pct
            self._armed = rearm or (self._armed and not alert)
        if alert:
            self._warn(reading)
        return reading

    def get_current(self) -> GPUSnapshot | None:
        """The latest reading; None before the first."""
        with self._lock:
            return self.history[-1] if self.history else None

    def get_summary(self) -> dict[str, float]:
        """Peaks and averages over all readings since the last reset, in MiB and percent; empty without readings."""
        with self._lock:
            if not self._count:
                return {}
            return {
                **{f"peak_{name}": value for name, value in self._peaks.items()},
                **{f"avg_{name}": value / self._count for name, value in self._sums.items()},
                "num_snapshots": self._count,
                "total_mb": self.history[-1].total_mb,
            }

    def format_summary(self) -> str:
        """The summary as a sentence."""
        summary = self.get_summary()
        if not summary:
            return "No GPU data collected"
        gb = {name: value / 1024 for name, value in summary.items()}
        return (
            f"GPU memory: peak {gb['peak_used_mb']:.1f} of {gb['total_mb']:.1f} GB used; tensors of this process: peak "
            f"{gb['peak_allocated_mb']:.1f} GB (reserved {gb['peak_reserved_mb']:.1f} GB), average "
            f"{gb['avg_allocated_mb']:.1f} GB; average utilization {summary['avg_utilization_pct']:.0f} % over "
            f"{summary['num_snapshots']:.0f} readings"
        )

    def _watch(self, stop: threading.Event) -> None:
        while self.snapshot() is not None and not stop.wait(self.poll_interval_sec):
            pass

    def _warn(self, reading: GPUSnapshot) -> None:
        logger.warning(
            "GPU memory is {:.0f} % full, {:.1f} GB are free", reading.utilization_pct, reading.free_mb / 1024
        )
        if self._alert is not None:
            self._alert(reading)


def read_memory(device_index: int = 0) -> GPUSnapshot | None:
    """Current memory of a CUDA or XPU device; None if there is none or the driver returns an error."""
    module = _torch_module()
    if module is None:
        return None
    try:
        free, total = module.mem_get_info(device_index)
        allocated, reserved = module.memory_allocated(device_index), module.memory_reserved(device_index)
    except RuntimeError as problem:
        logger.warning("cannot read the GPU memory: {}", problem)
        return None
    return GPUSnapshot(time.time(), allocated / _MIB, reserved / _MIB, free / _MIB, total / _MIB)


def get_available_vram_mb(device_index: int = 0) -> float:
    """Free GPU memory in MiB, all processes considered; 0 without a GPU."""
    reading = read_memory(device_index)
    return reading.free_mb if reading else 0.0


def torch_uses_gpu() -> bool:
    """Whether this program has used a GPU; asking torch for its memory before that would allocate some.

    Does not wait for another thread that imports torch.
    """
    torch = sys.modules.get("torch")
    modules = [getattr(torch, name, None) for name in ("cuda", "xpu")]
    return any(module is not None and module.is_initialized() for module in modules)


def vram_status(*, ask_torch: bool = True) -> VRAMStatus | None:
    """Memory usage of the first GPU, from nvidia-smi, or torch if already loaded; None if unknown.

    With ``ask_torch=False`` only from nvidia-smi.
    """
    memory = gpu_memory()
    if memory is not None:
        capability = compute_capability()
        bf16 = capability is None or capability >= (8, 0)  # as models/device.py
        return VRAMStatus(memory.name, memory.used_gb, memory.total_gb, other_processes(), bf16)
    reading = read_memory() if ask_torch and "torch" in sys.modules else None
    if reading is None:
        return None
    return VRAMStatus(detect_gpu()["name"], reading.used_mb / 1024, reading.total_mb / 1024, [])


def detect_gpu() -> dict[str, str]:
    """Keys: name, compute_capability, driver_version, total_memory_gb, backend (cuda, xpu, mps or cpu); "" if
    unknown."""
    import torch

    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return _described("cuda", gpu.name, gpu.total_memory, f"{gpu.major}.{gpu.minor}", driver_version())
    if torch.xpu.is_available():
        intel: Any = torch.xpu.get_device_properties(0)
        return _described("xpu", intel.name, intel.total_memory, "", str(intel.driver_version))
    if torch.backends.mps.is_available():
        name = next(iter(output_lines(["sysctl", "-n", "machdep.cpu.brand_string"])), "Apple GPU")
        size = next(iter(output_lines(["sysctl", "-n", "hw.memsize"])), "0")
        described = _described("mps", name, int(size))
        return described | {"total_memory_gb": f"{described['total_memory_gb']} (unified)"}
    return _described("cpu", "CPU", 0)


def _described(backend: str, name: str, num_bytes: int, capability: str = "", driver: str = "") -> dict[str, str]:
    return {
        "name": name,
        "compute_capability": capability,
        "driver_version": driver,
        "total_memory_gb": f"{num_bytes / 2**30:.1f}",
        "backend": backend,
    }


def _torch_module() -> Any:
    """``torch.cuda`` or ``torch.xpu``, whichever has a device; None if neither."""
    import torch

    return next((module for module in (torch.cuda, torch.xpu) if module.is_available()), None)
