"""Select the device and the dtype to compute with, and report the reason of each automatic selection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from acestep.core.errors import ConfigError

V = TypeVar("V")

DEVICES = ("auto", "cuda", "xpu", "mps", "cpu")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_ALIASES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True, slots=True)
class Selection(Generic[V]):
    """A selected value and the reason, which is shown to the user."""

    value: V
    reason: str


def choose_device(requested: str = "auto") -> Selection[str]:
    """Return the device to compute on, such as ``cuda`` or ``cuda:1``. ``auto`` prefers CUDA, then XPU, MPS and CPU.

    Raises:
        ConfigError: the device that was requested is not there.
    """
    if requested != "auto":
        return Selection(_available(requested), "as requested")
    if torch.cuda.is_available():
        return Selection("cuda", f"{torch.cuda.get_device_name()} is the fastest available device")
    if torch.xpu.is_available():
        return Selection("xpu", f"{torch.xpu.get_device_name()} is the fastest available device")
    if torch.backends.mps.is_available():
        return Selection("mps", "the GPU of this Mac is the fastest available device")
    return Selection("cpu", "PyTorch found no supported GPU")


def choose_devices(requested: str, count: int) -> list[Selection[str]]:
    """Return one device per process for ``count`` processes on this machine. All processes share the CPU.

    Raises:
        ConfigError: fewer than ``count`` devices are available.
    """
    selection = choose_device(requested)
    if count == 1 or selection.value == "cpu":
        return [selection] * count
    if selection.value != "cuda":
        raise ConfigError(
            [f"devices is {count}, but {selection.value} is a single device"], hint="Set device to auto or cuda."
        )
    available = torch.cuda.device_count()
    if count > available:
        raise ConfigError(
            [f"devices is {count}, but PyTorch finds {available} CUDA devices on this machine"],
            hint="Set devices to the number of available devices or less.",
        )
    return [Selection(f"cuda:{index}", selection.reason) for index in range(count)]


def _available(name: str) -> str:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError([f"unknown device {name!r}"], hint=f"Known: {', '.join(DEVICES)}.") from None
    counts = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}
    counts |= {"cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise ConfigError(
            [f"device {name!r} is not available"], hint="Use auto to select the fastest device of this machine."
        )
    return name


def choose_dtype(device: str, requested: str = "auto") -> Selection[torch.dtype]:
    """Return the dtype of the base model and of the computation on ``device``.

    ``auto`` selects bf16 on XPU and on CUDA devices of compute capability 8.0 or higher, fp16 on older CUDA devices
    and MPS, and fp32 on the CPU.

    Raises:
        ConfigError: unknown dtype name.
    """
    if requested != "auto":
        name = _ALIASES.get(requested, requested)
        if name not in DTYPES:
            raise ConfigError([f"unknown dtype {requested!r}"], hint=f"Known: auto, {', '.join(DTYPES)}.")
        return Selection(DTYPES[name], "as requested")
    kind = torch.device(device).type
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return Selection(torch.bfloat16, f"compute capability {major}.{minor} supports bfloat16 at full speed")
        return Selection(torch.float16, f"compute capability {major}.{minor} does not support bfloat16 at full speed")
    if kind == "xpu":
        return Selection(torch.bfloat16, "Intel GPUs support bfloat16 at full speed")
    if kind == "mps":
        return Selection(torch.float16, "half the memory of fp32, and the fastest dtype on Apple GPUs")
    return Selection(torch.float32, "exact, and no slower than bf16 on most CPUs")


def empty_cache(device: str) -> None:
    """Release the unused memory that PyTorch's caching allocator holds on ``device``."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.empty_cache()
    elif kind == "xpu":
        torch.xpu.empty_cache()
    elif kind == "mps":
        torch.mps.empty_cache()


def memory_total_bytes(device: str) -> int | None:
    """Total memory of a GPU in bytes; None for the CPU. On MPS, the recommended maximum."""
    kind = torch.device(device).type
    if kind == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if kind == "xpu":
        return int(torch.xpu.get_device_properties(device).total_memory)
    return int(torch.mps.recommended_max_memory()) if kind == "mps" else None


def memory_used_bytes(device: str) -> int | None:
    """Memory in bytes that tensors of this process occupy on a GPU; None for the CPU."""
    kind = torch.device(device).type
    if kind == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if kind == "xpu":
        return int(torch.xpu.memory_allocated(device))
    return int(torch.mps.current_allocated_memory()) if kind == "mps" else None
