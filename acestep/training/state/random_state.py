"""The global random generators, which adapter dropout draws from: part of the training state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class RandomState:
    """The generators' state at the last border between two steps.

    A save in the middle of a step, and the repeat of a step, go back to that border.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.captured: dict[str, Tensor] = {}
        self.capture()

    def capture(self) -> None:
        """Remember the present state. Does not wait for the device."""
        self.captured = {"cpu": torch.get_rng_state()}
        if self._device.type != "cpu":
            self.captured[self._device.type] = self._module.get_rng_state(*self._where)

    def restore(self) -> None:
        """Go back to the marked state."""
        torch.set_rng_state(self.captured["cpu"])
        if self._device.type != "cpu" and self._device.type in self.captured:
            self._module.set_rng_state(self.captured[self._device.type], *self._where)

    def load(self, captured: dict[str, Tensor]) -> None:
        """Take over a saved state; the generators of devices that are not in use here are left out."""
        self.captured = {name: state for name, state in captured.items() if name in ("cpu", self._device.type)}
        self.restore()

    @property
    def _module(self) -> Any:
        return torch.get_device_module(self._device)

    @property
    def _where(self) -> tuple[torch.device, ...]:
        return () if self._device.type == "mps" else (self._device,)  # Apple's has one device and no argument for it


@contextmanager
def seeded_generators(seed: int, device: torch.device) -> Iterator[None]:
    """Within the block the global generators start from ``seed``; afterwards they are as they were before."""
    before = RandomState(device)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        before.restore()
