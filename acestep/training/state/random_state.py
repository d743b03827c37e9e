"""State of the global random generators, which adapter dropout draws from; part of the training state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class RandomState:
    """The generators' state between two steps.

    A checkpoint saved during a step stores it, and a retried step starts from it again.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.captured: dict[str, Tensor] = {}
        self.capture()

    def capture(self) -> None:
        """Capture the current state, without waiting for the device."""
        self.captured = {"cpu": torch.get_rng_state()}
        if self._device.type != "cpu":
            self.captured[self._device.type] = self._module.get_rng_state(*self._where)

    def restore(self) -> None:
        """Restore the captured state."""
        torch.set_rng_state(self.captured["cpu"])
        if self._device.type != "cpu" and self._device.type in self.captured:
            self._module.set_rng_state(self.captured[self._device.type], *self._where)

    def load(self, captured: dict[str, Tensor]) -> None:
        """Restore a saved state; generators of devices that this run does not use are ignored."""
        self.captured = {name: state for name, state in captured.items() if name in ("cpu", self._device.type)}
        self.restore()

    @property
    def _module(self) -> Any:
        return torch.get_device_module(self._device)

    @property
    def _where(self) -> tuple[torch.device, ...]:
        return () if self._device.type == "mps" else (self._device,)  # MPS has one device and takes no argument


@contextmanager
def seeded_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Inside the block the global generators start from ``seed``; afterwards their state is restored."""
    before = RandomState(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        before.restore()
