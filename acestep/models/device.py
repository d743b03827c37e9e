"""Select the device and the dtype to compute with, and report the reason of each automatic selection."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Thread
from typing import Generic, TypeVar

import torch

from acestep.core.architectures import runs_on
from acestep.core.errors import ConfigError
from acestep.core.launcher import Launch
from acestep.core.system_memory import free_bytes

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
        ConfigError: the device that was requested is not there, or the installed PyTorch has no code for it.
    """
    if requested != "auto":
        return Selection(_supported(_available(requested)), "as requested")
    if torch.cuda.is_available():
        return Selection(_supported("cuda"), f"{torch.cuda.get_device_name()} is the fastest available device")
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


def choose_launched_device(requested: str, launch: Launch) -> Selection[str]:
    """Return the device of this process among those that torchrun or SLURM started on this machine.

    Raises:
        ConfigError: there are more processes than devices.
    """
    selection = choose_device(requested)
    if selection.value == "cpu":
        return selection
    available = torch.cuda.device_count() if selection.value == "cuda" else 1
    shows_one = launch.launcher == "srun" and available == 1  # srun --gpus-per-task=1
    if launch.local_rank >= available and not shows_one:
        raise ConfigError(
            [f"{launch.launcher} started process {launch.local_rank + 1} on this machine, but it has {available} GPUs"],
            hint="Start one process per GPU, and set device to auto.",
        )
    return Selection(f"cuda:{launch.local_rank}", selection.reason) if available > 1 else selection


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


def _supported(name: str) -> str:
    """``name``. Raises ConfigError for an NVIDIA GPU that the installed build of PyTorch has no code for."""
    if torch.device(name).type != "cuda" or torch.version.hip:
        return name
    built_for = torch.cuda.get_arch_list()
    capability = ".".join(str(number) for number in torch.cuda.get_device_capability(name))
    if built_for and not runs_on(built_for, capability):
        gpu = f"{torch.cuda.get_device_name(name)} (compute capability {capability})"
        raise ConfigError(
            [f"the installed PyTorch cannot compute on {gpu}: it is built for {', '.join(built_for)}"],
            hint="Run the install script again: it selects the build for this GPU. Or set device to cpu.",
        )
    return name


def under_autocast(device: torch.device) -> bool:
    """Return whether autocast selects the dtype of matrix products on ``device``. It does not know the meta device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def choose_dtype(device: str, requested: str = "auto") -> Selection[torch.dtype]:
    """Return the dtype of the base model and of the computation on ``device``.

    ``auto`` selects bf16 on GPUs that compute in it, otherwise fp32, and never fp16, in which ACE-Step overflows.

    Raises:
        ConfigError: unknown dtype name.
    """
    if requested != "auto":
        name = _ALIASES.get(requested, requested)
        if name not in DTYPES:
            raise ConfigError([f"unknown dtype {requested!r}"], hint=f"Known: auto, {', '.join(DTYPES)}.")
        return Selection(DTYPES[name], f"as requested{_drawback(device, DTYPES[name])}")
    if torch.device(device).type == "cpu":
        return Selection(torch.float32, "exact, and no slower than bf16 on most CPUs")
    native, gpu = _bf16_support(device)
    if native:
        return Selection(torch.bfloat16, f"{gpu} supports bf16")
    return Selection(torch.float32, f"{gpu} has no fast bf16, and ACE-Step overflows in fp16")


def encoder_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of text encoder, condition encoder, audio tokenizer and VAE beside a decoder in ``dtype``.

    They overflow in fp16, so they compute in fp32 instead.
    """
    return torch.float32 if dtype == torch.float16 else dtype


def xpu_lacks_fp64(device: torch.device) -> bool:
    """Return whether ``device`` is an Intel GPU without fp64, such as those of the Arc A series."""
    return device.type == "xpu" and not torch.xpu.get_device_properties(device).has_fp64


def not_finite_hint(dtype: torch.dtype, setting: str, others: str) -> str:
    """Return what to do about NaN or infinite values that were computed in ``dtype``.

    Args:
        setting: what selects fp32, such as ``--dtype fp32``.
        others: what to do about the other causes, as sentences.
    """
    if dtype == torch.float16:
        return f"The likely cause is fp16, in which the model overflows: use {setting}. {others}"
    return others if dtype == torch.float32 else f"{others} If that does not help, use {setting}."


def _drawback(device: str, dtype: torch.dtype) -> str:
    """What a user who requests ``dtype`` should know."""
    if dtype == torch.float16:
        return "; the decoder may overflow in it, and encoders and VAE compute in fp32"
    if dtype == torch.bfloat16 and torch.device(device).type != "cpu":
        native, gpu = _bf16_support(device)
        return "" if native else f"; slow: emulated on {gpu}"
    return ""


def _bf16_support(device: str) -> tuple[bool, str]:
    """Whether a GPU computes in bf16, and the name of this kind of GPU in messages.

    On CUDA the compute capability decides, because ``torch.cuda.is_bf16_supported`` looks at the current device alone.
    ROCm reports the number of the architecture, such as 9.0 or 11.0, as compute capability.
    """
    kind = torch.device(device).type
    if kind == "cuda" and torch.version.hip:
        return torch.cuda.is_bf16_supported(including_emulation=False), "this AMD GPU"
    if kind == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return major >= 8, f"compute capability {major}.{minor}"
    return kind == "xpu", {"xpu": "this Intel GPU", "mps": "the GPU of this Mac"}.get(kind, kind)


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


def memory_free_bytes(device: str) -> int | None:
    """Memory in bytes that this process can still allocate on ``device``; None if the system does not report it.

    Memory that the caching allocator holds but does not use counts as used; release it with ``empty_cache`` before.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if kind == "xpu":
        return int(torch.xpu.mem_get_info(device)[0])
    if kind == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return free_bytes()


def compute_on_one_thread(num_threads: int) -> None:
    """Limit PyTorch to one thread in operations of the calling thread.

    ``torch.set_num_threads`` also sets the number for threads that are started later, which another thread restores.
    """
    torch.get_num_threads()  # initializes the number of this thread, which would otherwise happen later
    torch.set_num_threads(1)
    restore = Thread(target=torch.set_num_threads, args=(num_threads,))
    restore.start()
    restore.join()
