"""Lightning Fabric as training needs it. Several devices and nodes will be chosen here."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision, Precision

from acestep.core.errors import TrainingError

_MIXED = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


class _Autocast(MixedPrecision):
    """Autocast and, for fp16, a loss scale. Inputs stay fp32: Fabric would round the timesteps."""

    def convert_input(self, data: Any) -> Any:
        return data


def make_fabric(device: torch.device, dtype: torch.dtype) -> Fabric:
    """Fabric on one device; the forward is computed in ``dtype``. Raises TrainingError."""
    if device.type not in ("cpu", "cuda", "mps"):
        raise TrainingError(f"training on {device.type} is not supported", hint="Set device to cpu, or use a GPU.")
    precision: Any = Precision() if dtype == torch.float32 else _Autocast(_MIXED[dtype], device.type)  # type: ignore[arg-type]
    devices: Any = [device.index or 0] if device.type == "cuda" else 1
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends other accelerators than the one that was chosen
        return Fabric(accelerator=device.type, devices=devices, plugins=[precision])
