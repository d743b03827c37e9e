"""Checks whether this computer can run the program; each failure comes with what to do.

Standard library only, so that it also works when packages are missing.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from acestep.core.paths import PROJECT, checkpoint_roots
from acestep.models.catalog import CATALOG, is_present
from acestep.system.check import INSTALL, Check
from acestep.system.device_check import MORE_IMPORTS, QUICK_IMPORTS, check_imports

PYTHONS = ((3, 11), (3, 13))  # oldest and newest supported version
PORTS = (7861, 7862)
MIN_FREE_GB = 5
_PIN = re.compile(r'([\w.-]+)==([\w.*]+)(?:\s*;\s*sys_platform\s*(==|!=)\s*"(\w+)")?$')


@dataclass(frozen=True, slots=True)
class Requirement:
    """One pinned line of a requirements file: ``version`` may end in ``.*``."""

    name: str
    version: str


def diagnose(*, deep: bool = False, checkpoints: Path | None = None) -> list[Check]:
    """All checks of this computer; ``deep`` also imports the packages, which takes some seconds."""
    return [
        check_python(),
        *check_packages(read_requirements()),
        *(check_imports(QUICK_IMPORTS + MORE_IMPORTS) if deep else []),
        _disk(PROJECT),
        check_writable(PROJECT),
        _checkpoints(checkpoints),
        _ports(),
        _proxy(os.environ),
    ]


def check_python() -> Check:
    """The Python version is one that every package supports."""
    (low, high), version = PYTHONS, sys.version_info[:2]
    hint = f"Install Python {low[0]}.{low[1]} to {high[0]}.{high[1]} and run {INSTALL} again."
    return Check("python", low <= version <= high, platform.python_version(), hint)


def read_requirements(path: Path = PROJECT / "requirements.txt") -> list[Requirement]:
    """The pinned packages of a requirements file for this platform. Raises ValueError for any other line."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-r"):
            continue
        match = _PIN.fullmatch(text)
        if match is None:
            raise ValueError(f"{path.name}: {line!r} is not a pinned package")
        name, version, relation, system = match.groups()
        if relation is None or (relation == "==") == (sys.platform == system):
            found.append(Requirement(name, version))
    return found


def check_packages(requirements: Iterable[Requirement]) -> list[Check]:
    """Each package is installed in the required version. Imports nothing."""
    return [_package(requirement) for requirement in requirements]


def _package(requirement: Requirement) -> Check:
    hint = f"Run {INSTALL}."
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(requirement.name, False, "not installed", hint)
    if not _fits(version, requirement.version):
        return Check(requirement.name, False, f"{version} is installed, {requirement.version} is needed", hint)
    return Check(requirement.name, True, version)


def _fits(version: str, wanted: str) -> bool:
    version = version.partition("+")[0]  # 2.11.0+cu130 is a build of 2.11.0
    return f"{version}.".startswith(wanted.removesuffix("*")) if wanted.endswith(".*") else version == wanted


def _disk(folder: Path) -> Check:
    free_gb = shutil.disk_usage(folder).free / 1e9
    hint = f"Free up disk space: a model takes 6.4 GB, a run more. At least {MIN_FREE_GB} GB are required."
    return Check("disk", free_gb >= MIN_FREE_GB, f"{free_gb:.0f} GB free", hint)


def check_writable(folder: Path) -> Check:
    """The folder is writable."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Check("write access", True, str(folder))
    except OSError as problem:
        hint = "Move the program to a folder with write permission."
        return Check("write access", False, f"{folder}: {problem.strerror}", hint)


def _checkpoints(custom: Path | None) -> Check:
    roots = checkpoint_roots(custom)
    found = [model.name for root in roots for model in CATALOG if is_present(model.name, root)]
    nothing = "none yet; the demo needs none. To download: python -m acestep download main"
    return Check("models", True, ", ".join(dict.fromkeys(found)) or nothing)


def _ports() -> Check:
    busy = [str(port) for port in PORTS if port_problem("127.0.0.1", port)]
    detail = f"in use: {', '.join(busy)} (choose another one with --port)" if busy else "7861 and 7862 are free"
    return Check("ports", True, detail)


def port_problem(host: str, port: int) -> str:
    """Why a server cannot listen on the port; "" if it can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probing:
        if os.name != "nt":  # on Windows it would allow two servers on one port
            probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probing.bind((host, port))
        except OSError as problem:
            return problem.strerror or str(problem)
    return ""


def socks_proxies(environment: Mapping[str, str]) -> list[str]:
    """Environment variables that set a SOCKS proxy, which the HTTP client cannot use without ``socksio``."""
    if importlib.util.find_spec("socksio") is not None:
        return []
    names = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY")
    both = [*names, *(name.lower() for name in names)]
    return [name for name in both if environment.get(name, "").lower().startswith("socks")]


def _proxy(environment: Mapping[str, str]) -> Check:
    if socks := socks_proxies(environment):
        hint = "Set HTTPS_PROXY to an http:// proxy, or unset it."
        return Check("proxy", False, f"{', '.join(socks)}: SOCKS proxies are not supported for downloads", hint)
    used = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    return Check("proxy", True, "downloads go through HTTPS_PROXY" if used else "none")
