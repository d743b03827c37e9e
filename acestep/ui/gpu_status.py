"""The graphics card on a page: how full it is, kept up to date without anybody waiting for the answer."""

from __future__ import annotations

import sys
import threading
import time

from acestep.training.gpu_monitor import VRAMStatus, read_memory, vram_status

_EVERY_S = 5.0


class GPUStatus:
    """Reads the card every few seconds in a thread of its own, from the first look on."""

    def __init__(self) -> None:
        self._status: VRAMStatus | None = None
        self._own = ""
        self._guard, self._begun = threading.Lock(), False

    def words(self) -> str:
        """The card, how full it is, who else is on it, and what this program's tensors take; "" without a card."""
        status = self.look()
        return f"{status}{self._own}" if status else ""

    def look(self) -> VRAMStatus | None:
        """The card as it was a few seconds ago; None without one, and before it was read."""
        with self._guard:
            if not self._begun:
                self._begun = True
                threading.Thread(target=self._read, name="graphics card", daemon=True).start()
        return self._status

    def _read(self) -> None:
        while True:
            self._status, self._own = vram_status(), _own()
            time.sleep(_EVERY_S)


def _own() -> str:
    """What this program has on the card; "" while it has nothing there: asking torch earlier would take memory."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized() or (own := read_memory()) is None:
        return ""
    return f"; this program {own.allocated_mb / 1024:.1f} GB, {own.reserved_mb / 1024:.1f} GB reserved"
