"""Finds the GPUs of this computer without PyTorch, so that an installer can ask before anything is installed.

Standard library only. A GPU that no driver serves is not found: PyTorch could not use it either.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from acestep.core.tool_output import output_lines

SYSFS = Path("/sys")
WSL_TOOLS = "/usr/lib/wsl/lib"  # where Windows puts nvidia-smi for Linux; not on every PATH
_TIMEOUT_S = 30
_INTEL = "0x8086"  # PCI vendor
_FIELDS = ("name,compute_cap,driver_version", "name,driver_version")  # drivers before 510 do not know compute_cap


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this computer; what the driver does not report is "".

    ``architecture`` is the compute capability of an NVIDIA GPU (``8.6``) or the target of an AMD GPU (``gfx1100``).
    """

    vendor: str  # nvidia, amd or intel
    name: str
    architecture: str = ""
    driver: str = ""

    def __str__(self) -> str:
        version = f"compute capability {self.architecture}" if self.vendor == "nvidia" else self.architecture
        facts = [version if self.architecture else "", f"driver {self.driver}" if self.driver else ""]
        known = ", ".join(filter(None, facts))
        return f"{self.name} ({known})" if known else self.name


def this_platform() -> str:
    """What the builds of PyTorch distinguish: linux, linux-arm, windows, mac or intel-mac."""
    arm = platform.machine().lower() in ("arm64", "aarch64")
    if sys.platform == "darwin":
        return "mac" if arm else "intel-mac"
    if os.name == "nt":
        return "windows"
    return "linux-arm" if arm else "linux"


def find_gpus(system: str = "") -> list[Gpu]:
    """The GPUs of NVIDIA, AMD and Intel that have a driver. GPUs of Macs are not listed."""
    system = system or this_platform()
    if system in ("mac", "intel-mac"):
        return []
    if system == "windows":
        return [*nvidia_gpus(), *_windows_gpus()]
    return [*nvidia_gpus(), *_amd_gpus(), *_intel_gpus()]


def nvidia_gpus() -> list[Gpu]:
    """The GPUs that nvidia-smi lists; none if it is missing or fails."""
    tool = shutil.which("nvidia-smi") or shutil.which("nvidia-smi", path=WSL_TOOLS)
    if tool is None:
        return []
    for fields in _FIELDS:
        lines = output_lines([tool, f"--query-gpu={fields}", "--format=csv,noheader"], timeout_s=_TIMEOUT_S)
        rows = [[value.strip() for value in line.split(",")] for line in lines]
        gpus = [_nvidia(row) for row in rows if len(row) == fields.count(",") + 1]
        if gpus:
            return gpus
    return []


def _nvidia(row: list[str]) -> Gpu:
    name, capability, driver = row if len(row) == 3 else (row[0], "", row[1])
    return Gpu("nvidia", name, capability if re.fullmatch(r"\d+\.\d", capability) else "", driver)


def _amd_gpus() -> list[Gpu]:
    """The GPUs of AMD's compute driver, which publishes one folder per device.

    ``gfx_target_version`` is 10000 * major + 100 * minor + stepping, 0 for the CPU; LLVM writes minor and stepping as
    hexadecimal digits: 90010 is gfx90a (Linux kernel, drivers/gpu/drm/amd/amdkfd/kfd_device.c).
    """
    found = []
    for properties in sorted(SYSFS.glob("class/kfd/kfd/topology/nodes/*/properties")):
        match = re.search(r"^gfx_target_version (\d+)$", _text(properties), re.M)
        version = int(match.group(1)) if match else 0
        if version:
            target = f"gfx{version // 10000}{version // 100 % 100:x}{version % 100:x}"
            found.append(Gpu("amd", "AMD GPU", target))
    return found


def _intel_gpus() -> list[Gpu]:
    """Intel's discrete GPUs. The integrated one, always PCI device 00:02.0, seldom has the memory for training."""
    found = []
    for vendor in sorted(SYSFS.glob("class/drm/card*/device/vendor")):
        slot = vendor.parent.resolve().name
        bus = re.fullmatch(r"\w+:(\w\w):\w\w\.\w", slot)
        if _text(vendor).strip() == _INTEL and bus and bus.group(1) != "00":
            found.append(Gpu("intel", f"Intel GPU at PCI {slot}"))
    return found


def _windows_gpus() -> list[Gpu]:
    """The GPUs of AMD and Intel by the names that Windows shows. PyTorch supports Intel's Arc and Max series."""
    command = "Get-CimInstance Win32_VideoController | ForEach-Object { $_.Name }"
    names = output_lines(["powershell", "-NoProfile", "-NonInteractive", "-Command", command], timeout_s=_TIMEOUT_S)
    amd = [Gpu("amd", name) for name in names if re.search(r"\b(AMD|Radeon)\b", name)]
    return amd + [Gpu("intel", name) for name in names if re.search(r"\bIntel\b.*\b(Arc|Data Center)\b", name)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
