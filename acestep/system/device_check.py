"""Checks in a child process that the packages can be imported, and that PyTorch can compute on the GPUs found here.

The child process may crash without harm. Standard library only on this side.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from acestep.core.architectures import runs_on
from acestep.core.paths import PROJECT
from acestep.core.standard_streams import utf8_environment
from acestep.system.check import INSTALL, Check
from acestep.system.gpus import Gpu, find_gpus, this_platform
from acestep.system.torch_builds import DEFAULT, choose_build, driver_problem

QUICK_IMPORTS = ("torch", "torchaudio", "soundfile", "av", "safetensors")
MORE_IMPORTS = (
    "transformers",
    "diffusers",
    "peft",
    "lycoris",
    "lightning_fabric",
    "prodigyopt",
    "librosa",
    "gradio",
    "loguru",
)
_IMPORTED = Check("imports", True, "all packages can be imported")
_ON_CPU = f"To continue without the GPU: {INSTALL} --cpu"
_CHILD = "import sys; from acestep.system.device_check import report; report(sys.argv[1:])"


def check_imports(names: Iterable[str]) -> list[Check]:
    """The packages can be imported, and PyTorch computes correctly on the GPU, if a driver of one is installed."""
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, *names],
        cwd=PROJECT,
        env=utf8_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    steps = [json.loads(line) for line in child.stdout.splitlines() if line.startswith('{"')]
    if child.returncode:
        failed = steps[-1].get("step", "torch") if steps else "starting python"
        reason = (child.stderr.strip().splitlines() or [f"exited with code {child.returncode}"])[-1]
        if failed.startswith("using"):
            return [_IMPORTED, Check("device", False, f"{failed} failed: {reason}", f"Update its driver. {_ON_CPU}")]
        return [Check("imports", False, f"{failed} failed: {reason}", f"Delete the folder env and run {INSTALL}.")]
    platform = this_platform()
    return [_IMPORTED, check_device(steps[-1], find_gpus(platform), platform)]


def report(names: Iterable[str]) -> None:
    """In the child process: import ``names`` one by one, then use each device. One JSON object per step and line."""

    def announce(step: str) -> None:
        sys.stdout.write(json.dumps({"step": step}) + "\n")
        sys.stdout.flush()

    for name in names:
        announce(f"importing {name}")
        importlib.import_module(name)
    from acestep.system.torch_devices import describe_torch

    sys.stdout.write(json.dumps(describe_torch(lambda device: announce(f"using {device}"))) + "\n")


def check_device(torch: Mapping[str, Any], gpus: Sequence[Gpu], platform: str) -> Check:
    """The verdict on what PyTorch found (``torch_devices.describe_torch``) and the GPUs that have a driver here.

    Without ``--device`` the first device is used, so the check fails if that one does.
    """
    devices: Sequence[Mapping[str, str]] = torch["devices"]
    if not devices:
        return _without_device(torch, gpus, platform)
    problems = [_problem(torch, device) for device in devices]
    facts = [_describe(torch, device, problem) for device, problem in zip(devices, problems, strict=True)]
    facts += [f"{gpu} is not used by this build" for gpu in gpus if gpu.vendor != _vendor(torch)]
    if not problems[0]:
        return Check("device", True, "; ".join(facts))
    usable = [device["device"] for device, problem in zip(devices, problems, strict=True) if not problem]
    other = f" Another GPU can be used: --device {usable[0]}." if usable else ""
    return Check("device", False, "; ".join(facts), _cure(torch, gpus, platform) + other)


def build_of(torch: Mapping[str, Any], platform: str) -> str:
    """The build that is installed, as ``torch_builds`` names it: from the version, ``2.11.0+cu126``."""
    return str(torch["torch"]).partition("+")[2] or DEFAULT.get(platform, "")


def _without_device(torch: Mapping[str, Any], gpus: Sequence[Gpu], platform: str) -> Check:
    """PyTorch sees no GPU: a failure if there is one of NVIDIA's, or one of the kind that it was built for."""
    expected = [gpu for gpu in gpus if gpu.vendor in ("nvidia", _vendor(torch))]
    if expected:
        detail = f"PyTorch ({_built_for(torch)}) cannot use {', '.join(str(gpu) for gpu in expected)}"
        reason = driver_problem(build_of(torch, platform), expected[0].driver, platform) or torch["problem"]
        return Check("device", False, f"{detail}: {reason}" if reason else detail, _cure(torch, gpus, platform))
    choice = choose_build(gpus, platform)
    facts = [f"the CPU computes in {torch['cpu']['dtype']}: {torch['cpu']['reason']}"]
    facts += [f"{gpu} is not used by this build" for gpu in gpus]
    facts += [f"{INSTALL} --backend {choice.build} installs the build for it"] if choice.question else []
    return Check("device", True, "; ".join(facts))


def _vendor(torch: Mapping[str, Any]) -> str:
    """Whose GPUs the installed build uses."""
    return "nvidia" if torch["cuda"] else "amd" if torch["hip"] else "intel" if torch["xpu"] else "none"


def _problem(torch: Mapping[str, Any], device: Mapping[str, str]) -> str:
    """Why a device cannot be used; "" if it can. What the kernel did counts more than the list of architectures."""
    held, own = torch["architectures"], device["architecture"]
    if not device["problem"] or not own or not held:
        return device["problem"]
    fits = own in held if torch["hip"] else runs_on(held, own)
    return device["problem"] if fits else f"this build is for {' '.join(held)}"


def _describe(torch: Mapping[str, Any], device: Mapping[str, str], problem: str) -> str:
    kind = "" if torch["hip"] or not device["architecture"] else "compute capability "
    facts = [f"{kind}{device['architecture']}", _built_for(torch), device["note"]]
    name = f"{device['device']} {device['name']} ({', '.join(filter(None, facts))})"
    if problem:
        return f"{name} cannot be used: {problem}"
    return f"{name} computes in {device['dtype']}: {device['reason']}"


def _built_for(torch: Mapping[str, Any]) -> str:
    if torch["cuda"]:
        return f"built for CUDA {torch['cuda']}"
    if torch["hip"]:
        return f"built for ROCm {torch['hip']}"
    return f"built for XPU {torch['xpu']}" if torch["xpu"] else "built without CUDA"


def _cure(torch: Mapping[str, Any], gpus: Sequence[Gpu], platform: str) -> str:
    choice = choose_build(gpus, platform)
    if choice.problem:
        return f"{choice.hint} {_ON_CPU}"
    if choice.build in (build_of(torch, platform), "cpu"):
        name = "HIP_VISIBLE_DEVICES" if torch["hip"] else "CUDA_VISIBLE_DEVICES"
        groups = " On Linux, add your user to the groups render and video." if torch["hip"] or torch["xpu"] else ""
        return (
            "This build supports the GPU, so check its driver: restart the computer after an update, and unset "
            f"{name}.{groups} {_ON_CPU}"
        )
    return f"Run {INSTALL} --backend {choice.build} to install the build for this GPU. {_ON_CPU}"
