"""The command that the install scripts ask for the build of PyTorch."""

from __future__ import annotations

import importlib.metadata

import pytest

from acestep.system import select_build
from acestep.system.check import INSTALL
from acestep.system.gpus import Gpu
from acestep.system.select_build import check_requested, installed_build, main

RTX_3060 = Gpu("nvidia", "RTX 3060", "8.6", "550.54.14")


@pytest.fixture
def computer(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """Linux with the GPUs in the list, and without torch."""
    gpus: list[Gpu] = []
    monkeypatch.setattr(select_build, "this_platform", lambda: "linux")
    monkeypatch.setattr(select_build, "find_gpus", lambda platform: gpus)
    monkeypatch.setattr(select_build, "installed_build", lambda platform: "")
    return gpus


def test_the_line_for_the_script_is_alone_on_stdout(computer: list[Gpu], capsys: pytest.CaptureFixture[str]) -> None:
    computer += [RTX_3060, Gpu("nvidia", "GT 710", "3.5", RTX_3060.driver)]
    assert main([]) == 0
    printed = capsys.readouterr()
    assert printed.out == "cu128 uv keep\n"
    assert "RTX 3060 (compute capability 8.6, driver 550.54.14)" in printed.err
    assert "This build does not support GT 710" in printed.err


def test_another_installed_build_is_replaced(
    computer: list[Gpu], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(select_build, "installed_build", lambda platform: "cpu")
    computer += [RTX_3060]
    assert main([]) == 0
    assert main(["--backend", "cpu"]) == 0
    assert capsys.readouterr().out == "cu128 uv replace\ncpu uv keep\n"


def test_cpu_turns_a_problem_into_the_build_for_cpus(computer: list[Gpu], capsys: pytest.CaptureFixture[str]) -> None:
    computer += [Gpu("nvidia", "Tesla K80", "", "470.82.01")]
    assert main([]) == 1
    failed = capsys.readouterr()
    assert not failed.out
    assert f"To install PyTorch for CPUs: {INSTALL} --backend cpu" in failed.err
    assert main(["--cpu"]) == 0
    allowed = capsys.readouterr()
    assert allowed.out == "cpu uv keep\n"
    assert "470.82.01 is too old" in allowed.err


def test_a_requested_build_that_the_driver_cannot_run_is_rejected() -> None:
    assert "550.54.14 is too old for CUDA 13.0" in check_requested("cu130", [RTX_3060], "linux").problem
    assert check_requested("cu126", [RTX_3060], "linux").build == "cu126"


@pytest.mark.parametrize(("build", "platform"), [("rocm7.2", "windows"), ("cu130", "mac"), ("xpu", "linux-arm")])
def test_a_build_that_the_platform_does_not_have_is_rejected_with_the_others(build: str, platform: str) -> None:
    choice = check_requested(build, [], platform)
    assert f"there is no build {build} for this platform" in choice.problem
    assert "cpu" in choice.hint


def test_a_requested_build_may_not_fit_the_gpus_which_is_said() -> None:
    choice = check_requested("xpu", [RTX_3060], "linux")
    assert (choice.build, choice.unused) == ("xpu", (RTX_3060,))
    assert check_requested("cpu", [RTX_3060], "linux").unused == ()


def test_an_intel_mac_is_rejected(computer: list[Gpu], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select_build, "this_platform", lambda: "intel-mac")
    assert main([]) == 1
    assert main(["--cpu"]) == 1


@pytest.mark.parametrize(
    ("version", "platform", "build"),
    [
        ("2.11.0+cu126", "linux", "cu126"),
        ("2.11.0+rocm7.2", "linux", "rocm7.2"),
        ("2.11.0", "linux", "cu130"),
        ("2.11.0", "windows", "cpu"),
        ("2.11.0", "mac", "cpu"),
    ],
)
def test_the_installed_build_is_read_from_its_version(
    version: str, platform: str, build: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert installed_build(platform) == build


def test_without_torch_no_build_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert installed_build("linux") == ""
