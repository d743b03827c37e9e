"""The free memory of this computer, for work without a GPU or on one of Apple."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

from loguru import logger

from acestep.core.tool_output import output_lines

_MEMINFO = Path("/proc/meminfo")
_KIB = 1024


def free_bytes() -> int | None:
    """Memory available without swapping, in bytes; None where the system does not report it."""
    if sys.platform == "win32":
        return _free_on_windows()
    if sys.platform == "darwin":
        return _free_on_macos()
    try:
        lines = _MEMINFO.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(values["MemAvailable"].split()[0]) * _KIB if "MemAvailable" in values else None


def _free_on_macos() -> int | None:
    """Free, inactive and purgeable pages, according to vm_stat."""
    printed = "\n".join(output_lines(["vm_stat"]))
    pages = dict(re.findall(r"^Pages ([a-z]+):\s+(\d+)", printed, re.MULTILINE))
    size = re.search(r"page size of (\d+) bytes", printed)
    if size is None or "free" not in pages:
        return None
    return int(size[1]) * sum(int(pages.get(kind, 0)) for kind in ("free", "inactive", "speculative", "purgeable"))


class _Status(ctypes.Structure):
    """MEMORYSTATUSEX of the Windows API."""

    _fields_ = [
        ("dwLength", ctypes.c_ulong),
        ("dwMemoryLoad", ctypes.c_ulong),
        ("ullTotalPhys", ctypes.c_ulonglong),
        ("ullAvailPhys", ctypes.c_ulonglong),
        ("rest", ctypes.c_ulonglong * 5),
    ]


def _free_on_windows() -> int | None:
    windows: object = getattr(ctypes, "windll", None)
    status = _Status(dwLength=ctypes.sizeof(_Status))
    if windows is None or not windows.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined]
        logger.warning("cannot read the free memory from Windows")
        return None
    return int(status.ullAvailPhys)
