"""Monitors GPU memory during a run: emits warnings, and a summary at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import torch

from acestep.core.events import Event, LogMessage
from acestep.training.gpu_monitor import GPUMonitor, GPUSnapshot


class MemoryMonitor:
    """Monitors inside a ``with`` block; does nothing without a GPU."""

    def __init__(
        self, device: torch.device, emit: Callable[[Event], None], *, monitor: GPUMonitor | None = None
    ) -> None:
        self._emit = emit
        self._monitor = monitor or GPUMonitor(device_index=device.index or 0)
        self._watches = device.type in ("cuda", "xpu")
        self._alerts: deque[GPUSnapshot] = deque()

    def __enter__(self) -> Self:
        if self._watches:
            self._monitor.start(self._alerts.append)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watches:
            self._monitor.stop()
            self.tell()
            if self._monitor.get_summary():
                self._emit(LogMessage(message=self._monitor.format_summary()))

    def tell(self) -> None:
        """Emit pending alerts. Called from the training thread: the event log has one writer."""
        while self._alerts:
            reading = self._alerts.popleft()
            self._emit(
                LogMessage(
                    message=f"GPU memory is {reading.utilization_pct:.0f} % full, "
                    f"{reading.free_mb / 1024:.1f} GB are free",
                    warning=True,
                )
            )

    @property
    def summary(self) -> dict[str, float] | None:
        """Peaks and averages so far, in MiB and percent; None without a GPU."""
        return self._monitor.get_summary() or None
