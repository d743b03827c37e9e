"""Which device and which number type to compute with; every automatic choice comes with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from acestep.core.errors import ConfigError

V = TypeVar("V")

DEVICES = ("auto", "cuda", "xpu", "mps", "cpu")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_SPELLINGS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


@dataclass(frozen=True, slots=True)
class Selection(Generic[V]):
    """A setting and why it is so."""

    value: V
    reason: str


def choose_device(wanted: str = "auto") -> Selection[str]:
    """The device to compute on, such as ``cuda`` or ``cuda:1``.

    Raises:
        ConfigError: the device that was asked for is not there.
    """
    if wanted != "auto":
        return Selection(_existing(wanted), "as asked for")
    if torch.cuda.is_available():
        return Selection("cuda", f"{torch.cuda.get_device_name()} is the fastest device here")
    if torch.xpu.is_available():
        return Selection("xpu", f"{torch.xpu.get_device_name()} is the fastest device here")
    if torch.backends.mps.is_available():
        return Selection("mps", "the graphics unit of this Mac is the fastest device here")
    return Selection("cpu", "no graphics card that PyTorch can use was found")


def choose_devices(wanted: str, count: int) -> list[Selection[str]]:
    """A device for each of ``count`` processes on this machine; a CPU is shared by them.

    Raises:
        ConfigError: there are not so many.
    """
    chosen = choose_device(wanted)
    if count == 1 or chosen.value == "cpu":
        return [chosen] * count
    if chosen.value != "cuda":
        raise ConfigError([f"devices is {count}, and {chosen.value} is one device"], hint="Set device to auto or cuda.")
    found = torch.cuda.device_count()
    if count > found:
        raise ConfigError(
            [f"devices is {count}, PyTorch finds {found} CUDA devices on this machine"],
            hint="Ask for as many as there are.",
        )
    return [Selection(f"cuda:{number}", chosen.reason) for number in range(count)]


def _existing(name: str) -> str:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError([f"no device is called {name!r}"], hint=f"Known: {', '.join(DEVICES)}.") from None
    counts = {"cpu": 1, "mps": int(torch.backends.mps.is_available())}
    counts |= {"cuda": torch.cuda.device_count(), "xpu": torch.xpu.device_count()}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise ConfigError(
            [f"device {name!r} is not there"], hint="Choose auto to take the best device of this machine."
        )
    return name


def choose_dtype(device: str, wanted: str = "auto") -> Selection[torch.dtype]:
    """The number type of the frozen weights and of the arithmetic on ``device``.

    Raises:
        ConfigError: no type of that name.
    """
    if wanted != "auto":
        name = _SPELLINGS.get(wanted, wanted)
        if name not in DTYPES:
            raise ConfigError([f"no number type is called {wanted!r}"], hint=f"Known: auto, {', '.join(DTYPES)}.")
        return Selection(DTYPES[name], "as asked for")
    kind = torch.device(device).type
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= 8:
            return Selection(torch.bfloat16, f"compute capability {major}.{minor} has fast bfloat16")
        return Selection(torch.float16, f"compute capability {major}.{minor} has no fast bfloat16")
    if kind == "xpu":
        return Selection(torch.bfloat16, "Intel graphics have fast bfloat16")
    if kind == "mps":
        return Selection(torch.float16, "halves the memory; Apple graphics are fastest with it")
    return Selection(torch.float32, "exact, and as fast as anything else on most processors")


def empty_cache(device: str) -> None:
    """Give memory that PyTorch keeps for later back to the device."""
    kind = torch.device(device).type
    if kind == "cuda":
        torch.cuda.empty_cache()
    elif kind == "xpu":
        torch.xpu.empty_cache()
    elif kind == "mps":
        torch.mps.empty_cache()


def memory_total_bytes(device: str) -> int | None:
    """All memory of a graphics device; None for the CPU."""
    kind = torch.device(device).type
    if kind == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if kind == "xpu":
        return int(torch.xpu.get_device_properties(device).total_memory)
    return int(torch.mps.recommended_max_memory()) if kind == "mps" else None


def memory_used_bytes(device: str) -> int | None:
    """What this program's tensors take on a graphics device; None for the CPU."""
    kind = torch.device(device).type
    if kind == "cuda":
        return int(torch.cuda.memory_allocated(device))
    if kind == "xpu":
        return int(torch.xpu.memory_allocated(device))
    return int(torch.mps.current_allocated_memory()) if kind == "mps" else None
