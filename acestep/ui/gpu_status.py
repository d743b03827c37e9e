"""The GPU and its memory use, read in the background."""

from __future__ import annotations

import threading
import time

from acestep.training.gpu_monitor import VRAMStatus, read_memory, torch_uses_gpu, vram_status

_INTERVAL_S = 5.0


class GPUStatus:
    """Reads the GPU every few seconds in a background thread, which starts with the first request."""

    def __init__(self) -> None:
        self._status: VRAMStatus | None = None
        self._allocated = ""
        self._lock, self._started = threading.Lock(), False

    def describe(self) -> str:
        """The GPU, its memory use and other programs on it; "" without a GPU."""
        status = self.read()
        return f"{status}{self._allocated}" if status else ""

    def read(self) -> VRAMStatus | None:
        """The latest status; None without a GPU, and before the first reading."""
        with self._lock:
            if not self._started:
                self._started = True
                threading.Thread(target=self._poll, name="GPU status", daemon=True).start()
        return self._status

    def _poll(self) -> None:
        while True:
            self._status, self._allocated = vram_status(ask_torch=torch_uses_gpu()), _allocated()
            time.sleep(_INTERVAL_S)


def _allocated() -> str:
    """The GPU memory of this program; "" until it uses the GPU."""
    if not torch_uses_gpu() or (own := read_memory()) is None:
        return ""
    return f"; this program {own.allocated_mb / 1024:.1f} GB, {own.reserved_mb / 1024:.1f} GB reserved"
