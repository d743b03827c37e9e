"""What the installed PyTorch can use, found by computing something on each device. Run in a child process.

A GPU that PyTorch lists may still be unable to run any kernel, and the first one may end the process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any


def describe_torch(announce: Callable[[str], None]) -> dict[str, Any]:
    """The build of PyTorch and each of its GPUs, with the problem of a kernel that was run on it.

    ``announce`` is called with the name of each device before it is used.
    """
    import torch

    from acestep.models.device import choose_dtype

    found: dict[str, Any] = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "xpu": getattr(torch.version, "xpu", None),
        "architectures": (getattr(torch._C, "_cuda_getArchFlags", str)() or "").split(),
        "problem": "",
        "cpu": _dtype(choose_dtype("cpu")),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the problem is reported below, with what to do
        names = _devices(torch, found)
        found["devices"] = [_describe(torch, name, announce) for name in names]
    return found


def _devices(torch: Any, found: dict[str, Any]) -> list[str]:
    names = ["mps"] if torch.backends.mps.is_available() else []
    names += [f"xpu:{index}" for index in range(torch.xpu.device_count() if torch.xpu.is_available() else 0)]
    if torch.cuda.is_available():
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] + names
    if torch.version.cuda or torch.version.hip:
        try:
            torch.cuda.init()
        except RuntimeError as problem:
            found["problem"] = str(problem).partition("\n")[0]
    return names


def _describe(torch: Any, device: str, announce: Callable[[str], None]) -> dict[str, str]:
    from acestep.models.device import choose_dtype
    from acestep.models.mps import choose_vae_device

    announce(device)
    kind = torch.device(device).type
    selection = choose_dtype(device)
    facts = {"device": device, "name": "Apple GPU", "architecture": "", "note": "", **_dtype(selection)}
    if kind != "mps":
        facts["name"] = getattr(torch, kind).get_device_name(device)
    if kind == "cuda" and torch.version.hip:
        facts["architecture"] = torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0]
    elif kind == "cuda":
        facts["architecture"] = ".".join(map(str, torch.cuda.get_device_capability(device)))
    elif kind == "mps" and (vae := choose_vae_device(device)).value != device:
        facts["note"] = f"the VAE computes on the CPU: {vae.reason}"
    try:
        return facts | {"problem": run_kernel(torch, device, selection.value)}
    except torch.OutOfMemoryError:
        return facts | {"problem": "", "note": "not tested: its memory is full"}


def _dtype(selection: Any) -> dict[str, str]:
    return {"dtype": str(selection.value).removeprefix("torch."), "reason": selection.reason}


def run_kernel(torch: Any, device: str, dtype: Any) -> str:
    """Multiply matrices, add, and convolve on ``device`` in ``dtype``; why that failed, or "".

    The numbers are -1, 0 and 1 and the sums at most 65, which every dtype represents exactly. The addition is a kernel
    of PyTorch itself; the others belong to libraries, which may support more GPUs.

    Raises:
        torch.OutOfMemoryError: another program, such as a run, uses the memory of the GPU.
    """
    generator = torch.Generator().manual_seed(0)
    signal = torch.randint(-1, 2, (1, 8, 64), generator=generator).float()
    kernel = torch.randint(-1, 2, (8, 8, 5), generator=generator).float()
    left, right = (torch.randint(-1, 2, (64, 64), generator=generator).float() for _ in "ab")
    try:
        product = (left.to(device, dtype) @ right.to(device, dtype) + 1).float().cpu()  # .cpu() waits for the kernel
        output = torch.nn.functional.conv1d(signal.to(device, dtype), kernel.to(device, dtype)).float().cpu()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as problem:
        return str(problem).partition("\n")[0]
    if not torch.equal(product.round(), left @ right + 1):
        return "a matrix multiplication gave wrong numbers"
    if not torch.equal(output.round(), torch.nn.functional.conv1d(signal, kernel)):
        return "a convolution gave wrong numbers"
    return ""
