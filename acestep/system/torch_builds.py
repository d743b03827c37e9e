"""Which build of PyTorch a GPU needs: the builds of one version, what each contains, and the choice among them.

A build is named as uv's option ``--torch-backend`` names it. Standard library only.

Sources: architectures of the CUDA builds, https://github.com/pytorch/pytorch/pull/175253, and for Windows
``.ci/pytorch/windows/cuda126.bat`` of that repository; of the ROCm build, ``.ci/docker/manywheel/build.sh``. Drivers:
https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html and the release notes of CUDA 12.6
and 13.0. Intel GPUs: https://docs.pytorch.org/docs/stable/notes/get_start_xpu.html.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from acestep.core.architectures import runs_on
from acestep.system.gpus import Gpu

TORCH = "2.11.0"  # the version in requirements.txt that this table describes
# What the package index serves when no build is named.
DEFAULT = {"linux": "cu130", "linux-arm": "cu130", "windows": "cpu", "mac": "cpu"}
ROCM, XPU = "rocm7.2", "xpu"
# The ROCm build is also compiled for gfx900 and gfx906, but the libraries of ROCm 7 have no kernels for them:
# https://github.com/ROCm/TheRock/issues/1844
ROCM_TARGETS = "gfx908 gfx90a gfx942 gfx950 gfx1030 gfx1100 gfx1101 gfx1102 gfx1150 gfx1151 gfx1200 gfx1201"


@dataclass(frozen=True, slots=True)
class CudaBuild:
    """A build for CUDA: the oldest driver and the architectures of its machine code, by platform."""

    name: str
    drivers: dict[str, str]
    architectures: dict[str, str]

    @property
    def cuda(self) -> str:
        """The version of CUDA: ``13.0`` for cu130."""
        return f"{self.name[2:-1]}.{self.name[-1]}"


_CUDA_12 = {"linux": "525.60.13", "linux-arm": "525.60.13", "windows": "528.33"}
_CUDA_13 = {"linux": "580", "linux-arm": "580", "windows": "580"}
_FROM_TURING = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"
CUDA_BUILDS = (  # the preferred first
    CudaBuild(
        "cu130",
        _CUDA_13,
        {"linux": _FROM_TURING, "windows": _FROM_TURING, "linux-arm": "sm_80 sm_90 sm_100 sm_110 sm_120"},
    ),
    CudaBuild(
        "cu128",
        _CUDA_12,
        {"linux": _FROM_TURING, "windows": _FROM_TURING, "linux-arm": "sm_80 sm_90 sm_100 sm_120"},
    ),
    CudaBuild(
        "cu126",
        _CUDA_12,
        {
            "linux": "sm_50 sm_60 sm_70 sm_75 sm_80 sm_86 sm_90",
            "windows": "sm_50 sm_60 sm_61 sm_70 sm_75 sm_80 sm_86 sm_90",
            "linux-arm": "sm_80 sm_90",
        },
    ),
)
BUILDS = {
    "linux": ("cpu", "cu126", "cu128", "cu130", ROCM, XPU),
    "linux-arm": ("cpu", "cu126", "cu128", "cu130"),
    "windows": ("cpu", "cu126", "cu128", "cu130", XPU),
    "mac": ("cpu",),
    "intel-mac": (),
}


@dataclass(frozen=True, slots=True)
class Choice:
    """The build to install, or why there is none.

    ``build`` is "" if no build fits; ``problem`` and ``hint`` then say why and what to do. ``reason`` names what was
    found, ``question`` is asked before the build is installed, ``unused`` are the GPUs that it does not serve.
    """

    build: str
    reason: str = ""
    question: str = ""
    unused: tuple[Gpu, ...] = ()
    problem: str = ""
    hint: str = ""


def is_older(version: str, other: str) -> bool:
    """Whether a driver version such as ``525.60.13`` is older than another; an unknown one is not."""
    numbers = [[int(part) for part in re.findall(r"\d+", text)] for text in (version, other)]
    return bool(numbers[0]) and numbers[0] < numbers[1]


def serves(build: str, gpu: Gpu, platform: str) -> bool:
    """Whether a build has code for a GPU. The driver is not considered."""
    if build not in BUILDS[platform]:
        return False
    if gpu.vendor == "nvidia":
        architectures = [cuda.architectures[platform] for cuda in CUDA_BUILDS if cuda.name == build]
        return bool(architectures) and (not gpu.architecture or runs_on(architectures, gpu.architecture))
    if gpu.vendor == "amd":
        return build == ROCM and (not gpu.architecture or gpu.architecture in ROCM_TARGETS.split())
    return build == XPU


def choose_build(gpus: Sequence[Gpu], platform: str, installed: str = "") -> Choice:
    """The build for the GPUs of a computer; ``installed`` is kept where it fits as well as the preferred one.

    NVIDIA's GPUs come first, then AMD's and Intel's, which are asked for. If no build serves all of NVIDIA's GPUs, the
    one that serves the newest is chosen.
    """
    if not BUILDS[platform]:
        return Choice(
            "",
            problem=f"PyTorch {TORCH} has no build for Python on Intel Macs",
            hint="On a Mac with an Apple chip, install the arm64 version of Python.",
        )
    other = _choose_other(gpus, platform, installed)
    if not any(gpu.vendor == "nvidia" for gpu in gpus):
        return other
    choice = _choose_cuda(gpus, platform, installed)
    return other if not choice.build and other.build in (ROCM, XPU) else choice


def driver_problem(build: str, driver: str, platform: str) -> str:
    """Why the driver is too old for a build; "" if it is not, and for builds without CUDA."""
    for cuda in CUDA_BUILDS:
        if cuda.name == build and platform in cuda.drivers and is_older(driver, cuda.drivers[platform]):
            oldest = cuda.drivers[platform]
            return f"the NVIDIA driver {driver} is too old for CUDA {cuda.cuda}, which needs {oldest} or newer"
    return ""


def _choose_cuda(gpus: Sequence[Gpu], platform: str, installed: str) -> Choice:
    nvidia = sorted((gpu for gpu in gpus if gpu.vendor == "nvidia"), key=_capability, reverse=True)
    names, driver = ", ".join(str(gpu) for gpu in nvidia), nvidia[0].driver
    fitting = [build for build in CUDA_BUILDS if not driver_problem(build.name, driver, platform)]
    if not fitting:
        oldest = CUDA_BUILDS[-1]
        problem = f"{names}: {driver_problem(oldest.name, driver, platform)}"
        return Choice("", problem=problem, hint="Update the driver. A GPU that has no such driver is not supported.")

    def rank(build: CudaBuild) -> tuple[list[bool], bool]:
        return [serves(build.name, gpu, platform) for gpu in nvidia], build.name == installed

    best = max(fitting, key=rank)  # the first of equals
    if not any(rank(best)[0]):
        newer = [build for build in CUDA_BUILDS if any(rank(build)[0])]
        problem = driver_problem(newer[0].name, driver, platform) if newer else f"PyTorch {TORCH} does not support it"
        hint = "Update the NVIDIA driver." if newer else "Use a GPU of compute capability 5.0 or higher."
        return Choice("", problem=f"{names}: {problem}", hint=hint)
    unused = tuple(gpu for gpu in gpus if not serves(best.name, gpu, platform))
    return Choice(best.name, f"{names}: PyTorch {TORCH} for CUDA {best.cuda} ({best.name})", unused=unused)


def _capability(gpu: Gpu) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", gpu.architecture)]


def _choose_other(gpus: Sequence[Gpu], platform: str, installed: str) -> Choice:
    """ROCm, then XPU, for a GPU that its build serves; otherwise the installed or the default build."""
    for build, label in ((ROCM, "ROCm"), (XPU, "XPU")):
        served = [gpu for gpu in gpus if serves(build, gpu, platform)]
        if served and installed != "cpu":  # the answer of an earlier installation
            question = f"Found {served[0]}. Install the {label} build of PyTorch?"
            unused = tuple(gpu for gpu in gpus if gpu not in served)
            reason = f"{served[0]}: PyTorch {TORCH} for {label} ({build})"
            return Choice(build, reason, "" if installed == build else question, unused)
    found = ", ".join(str(gpu) for gpu in gpus) or "no GPU found"
    build, device = installed or DEFAULT[platform], "the GPU of this Mac" if platform == "mac" else "the CPU"
    return Choice(build, f"{found}: PyTorch {TORCH} will compute on {device}", unused=tuple(gpus))
