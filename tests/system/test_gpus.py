"""GPUs are found by the tools and files of their drivers, and named for a person."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from acestep.system import gpus
from acestep.system.gpus import Gpu, find_gpus, this_platform


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its tools are in ``bin``, what Linux reports in ``sys``; both are empty."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(gpus, "WSL_TOOLS", str(tmp_path / "wsl"))
    monkeypatch.setattr(gpus, "SYSFS", tmp_path / "sys")
    return tmp_path


def add_tool(folder: Path, name: str, code: str) -> None:
    """A program in Python; ``fields`` is the value of its option --query-gpu."""
    start = "import sys; fields = sys.argv[1].partition('=')[2]\n"
    folder.mkdir(exist_ok=True)
    script = folder / f"{name}.py"
    script.write_text(f"{start}{code}\n")
    # the path of an interpreter after #! may have no spaces
    (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    (folder / name).chmod(0o755)


def add_card(computer: Path, number: int, vendor: str, slot: str) -> None:
    """A GPU as Linux shows it: the device is a link to the folder of its PCI slot."""
    device = computer / "sys" / "devices" / slot
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    card = computer / "sys" / "class" / "drm" / f"card{number}"
    card.mkdir(parents=True)
    (card / "device").symlink_to(device)


def test_a_computer_without_gpu_has_none(computer: Path) -> None:
    assert find_gpus("linux") == []
    assert find_gpus("windows") == []
    assert find_gpus("mac") == []


def test_gpus_of_nvidia_are_found_with_capability_and_driver(computer: Path) -> None:
    rows = "NVIDIA GeForce RTX 4090, 8.9, 580.65.06\\nTesla P40, 6.1, 580.65.06"
    add_tool(computer / "bin", "nvidia-smi", f"print('{rows}')")
    first, second = find_gpus("linux")
    assert first == Gpu("nvidia", "NVIDIA GeForce RTX 4090", "8.9", "580.65.06")
    assert str(second) == "Tesla P40 (compute capability 6.1, driver 580.65.06)"


def test_the_driver_of_windows_is_found_inside_wsl(computer: Path) -> None:
    add_tool(computer / "wsl", "nvidia-smi", "print('RTX 4090, 8.9, 581.15')")
    assert find_gpus("linux") == [Gpu("nvidia", "RTX 4090", "8.9", "581.15")]


def test_a_driver_that_does_not_know_the_capability_still_gives_its_version(computer: Path) -> None:
    code = "if 'compute_cap' in fields: sys.exit('Field \"compute_cap\" is not a valid field to query.')"
    add_tool(computer / "bin", "nvidia-smi", f"{code}\nprint('Tesla K80, 470.82.01')")
    [gpu] = find_gpus("linux")
    assert gpu == Gpu("nvidia", "Tesla K80", "", "470.82.01")
    assert str(gpu) == "Tesla K80 (driver 470.82.01)"


@pytest.mark.parametrize("code", ["sys.exit(9)", "print('No devices were found')", ""])
def test_a_driver_that_does_not_respond_counts_as_none(code: str, computer: Path) -> None:
    add_tool(computer / "bin", "nvidia-smi", code)
    assert find_gpus("linux") == []


def test_a_tool_that_hangs_or_cannot_start_counts_as_missing(computer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_tool(computer / "bin", "nvidia-smi", "import time; time.sleep(600)")
    monkeypatch.setattr(gpus, "_TIMEOUT_S", 0.05)
    assert find_gpus("linux") == []
    (computer / "bin" / "nvidia-smi").write_bytes(b"\x7fELF of another machine")
    assert find_gpus("linux") == []


@pytest.mark.parametrize(("version", "target"), [(90010, "gfx90a"), (100300, "gfx1030"), (110501, "gfx1151")])
def test_gpus_of_amd_are_found_with_their_target(version: int, target: str, computer: Path) -> None:
    nodes = computer / "sys" / "class" / "kfd" / "kfd" / "topology" / "nodes"
    for number, value in enumerate((0, version)):  # the CPU is the first
        (nodes / str(number)).mkdir(parents=True)
        (nodes / str(number) / "properties").write_text(f"cpu_cores_count 0\ngfx_target_version {value}\nvendor_id 1\n")
    [gpu] = find_gpus("linux")
    assert gpu == Gpu("amd", "AMD GPU", target)
    assert str(gpu) == f"AMD GPU ({target})"


def test_only_the_discrete_gpus_of_intel_are_found(computer: Path) -> None:
    add_card(computer, 0, "0x8086", "0000:00:02.0")  # integrated
    add_card(computer, 1, "0x8086", "0000:03:00.0")
    add_card(computer, 2, "0x1002", "0000:04:00.0")  # AMD without its driver for computation
    [gpu] = find_gpus("linux")
    assert gpu == Gpu("intel", "Intel GPU at PCI 0000:03:00.0")


def test_windows_shows_the_gpus_of_amd_and_intel_by_name(computer: Path) -> None:
    names = ["NVIDIA GeForce RTX 4090", "AMD Radeon RX 7900 XTX", "Intel(R) UHD Graphics 770", "Intel(R) Arc(TM) A770"]
    add_tool(computer / "bin", "powershell", f"print(*{names!r}, sep='\\n')")
    assert find_gpus("windows") == [Gpu("amd", names[1]), Gpu("intel", names[3])]


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("linux", "x86_64", "linux"),
        ("linux", "aarch64", "linux-arm"),
        ("darwin", "arm64", "mac"),
        ("darwin", "x86_64", "intel-mac"),
    ],
)
def test_the_platform_is_named_as_the_builds_of_pytorch_are(
    system: str, machine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr(gpus, "os", type("posix", (), {"name": "posix"}))
    assert this_platform() == name


def test_windows_is_a_platform_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(gpus, "os", type("nt", (), {"name": "nt"}))
    assert this_platform() == "windows"


def test_no_tool_waits_for_input(computer: Path) -> None:
    add_tool(computer / "bin", "nvidia-smi", "print('GPU, 8.9, ' + repr(sys.stdin.read()))")
    reading, writing = os.pipe()  # never written to: a tool that reads it would hang
    code = "from acestep.system.gpus import nvidia_gpus; print(nvidia_gpus()[0].driver)"
    child = subprocess.run([sys.executable, "-c", code], stdin=reading, capture_output=True, text=True, check=True)
    os.close(writing)
    assert child.stdout == "''\n"
