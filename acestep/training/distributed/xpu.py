"""Intel GPUs for Lightning Fabric, which has no accelerator for them (2.6)."""

from __future__ import annotations

import torch
from lightning_fabric.accelerators.accelerator import Accelerator


class XPUAccelerator(Accelerator):
    """One Intel GPU."""

    def setup_device(self, device: torch.device) -> None:
        """Make ``device`` the current one of this process."""
        torch.xpu.set_device(device)

    def teardown(self) -> None:
        """Release the unused memory of PyTorch's allocator."""
        torch.xpu.empty_cache()

    @staticmethod
    def parse_devices(devices: list[int]) -> list[int]:
        """The indices of the devices, unchanged."""
        return devices

    @staticmethod
    def get_parallel_devices(devices: list[int]) -> list[torch.device]:
        """The devices with these indices."""
        return [torch.device("xpu", index) for index in devices]

    @staticmethod
    def auto_device_count() -> int:
        """The number of devices of this machine."""
        return torch.xpu.device_count()

    @staticmethod
    def is_available() -> bool:
        """Whether PyTorch finds an Intel GPU."""
        return torch.xpu.is_available()

    @staticmethod
    def name() -> str:
        """The name of the accelerator."""
        return "xpu"
