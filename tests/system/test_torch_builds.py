"""The build of PyTorch is chosen by a table: architectures of the GPUs, version of the driver, platform."""

from __future__ import annotations

import pytest
import torch

from acestep.system.doctor import read_requirements
from acestep.system.gpus import Gpu, this_platform
from acestep.system.torch_builds import (
    BUILDS,
    CUDA_BUILDS,
    DEFAULT,
    TORCH,
    choose_build,
    driver_problem,
    is_older,
    serves,
)

NEW, OLD = "580.65.06", "550.54.14"  # drivers for CUDA 13 and 12


def nvidia(capability: str, driver: str = NEW) -> Gpu:
    return Gpu("nvidia", f"GPU {capability}", capability, driver)


def test_the_table_describes_the_required_version() -> None:
    assert {"torch", "torchaudio"} == {each.name for each in read_requirements() if each.version == TORCH}


def test_the_table_lists_the_architectures_of_the_installed_build() -> None:
    listed = {build.cuda: build.architectures.get(this_platform()) for build in CUDA_BUILDS}
    assert not torch.version.cuda or torch._C._cuda_getArchFlags() == listed[torch.version.cuda]


@pytest.mark.parametrize(
    ("version", "other", "older"),
    [
        ("470.82.01", "525.60.13", True),
        ("525.60.13", "525.60.13", False),
        ("525.60.11", "525.60.13", True),
        ("580.65.06", "580", False),
        ("1000.1", "580", False),
        ("", "580", False),
    ],
)
def test_driver_versions_are_compared_by_number(version: str, other: str, older: bool) -> None:
    assert is_older(version, other) is older


@pytest.mark.parametrize("platform", ["linux", "windows"])
@pytest.mark.parametrize(
    ("capability", "driver", "build"),
    [
        ("5.2", NEW, "cu126"),
        ("6.1", NEW, "cu126"),
        ("6.1", OLD, "cu126"),
        ("7.0", NEW, "cu126"),
        ("7.5", NEW, "cu130"),
        ("7.5", OLD, "cu128"),
        ("8.6", NEW, "cu130"),
        ("8.9", OLD, "cu128"),
        ("9.0", NEW, "cu130"),
        ("12.0", NEW, "cu130"),
        ("12.0", "572.16", "cu128"),
        ("12.1", NEW, "cu130"),
        ("", NEW, "cu130"),  # unknown
    ],
)
def test_one_gpu_of_nvidia_gets_the_newest_build_that_has_code_for_it(
    capability: str, driver: str, build: str, platform: str
) -> None:
    choice = choose_build([nvidia(capability, driver)], platform)
    assert choice.build == build
    assert not choice.question
    assert not choice.unused
    assert f"({build})" in choice.reason


@pytest.mark.parametrize(
    ("capability", "driver", "problem"),
    [
        ("3.7", OLD, "does not support it"),
        ("", "470.82.01", "the NVIDIA driver 470.82.01 is too old for CUDA 12.6, which needs 525.60.13"),
        ("8.6", "510.47.03", "is too old for CUDA 12.6"),
    ],
)
def test_a_gpu_or_driver_without_a_build_is_rejected_with_what_to_do(
    capability: str, driver: str, problem: str
) -> None:
    choice = choose_build([nvidia(capability, driver)], "linux")
    assert not choice.build
    assert problem in choice.problem
    assert choice.hint


def test_a_gpu_whose_only_build_needs_a_newer_driver_asks_for_the_driver() -> None:
    choice = choose_build([nvidia("11.0", OLD)], "linux-arm")
    assert not choice.build
    assert "too old for CUDA 13.0, which needs 580 or newer" in choice.problem
    assert "Update the NVIDIA driver" in choice.hint


@pytest.mark.parametrize(
    ("capabilities", "build", "unused"),
    [
        (["6.1", "8.6"], "cu126", []),  # one build serves both
        (["7.0", "9.0"], "cu126", []),
        (["6.1", "12.0"], "cu130", ["6.1"]),  # none does: the newest counts
        (["6.1", "7.0", "12.0"], "cu130", ["6.1", "7.0"]),
        (["7.5", "12.0"], "cu130", []),
        (["3.5", "8.6"], "cu130", ["3.5"]),
    ],
)
def test_several_gpus_get_the_build_that_serves_all_or_the_newest(
    capabilities: list[str], build: str, unused: list[str]
) -> None:
    choice = choose_build([nvidia(each) for each in capabilities], "linux")
    assert choice.build == build
    assert [gpu.architecture for gpu in choice.unused] == unused


def test_an_installed_build_is_kept_if_it_fits_as_well() -> None:
    assert choose_build([nvidia("8.9")], "linux", installed="cu126").build == "cu126"
    assert choose_build([nvidia("12.0")], "linux", installed="cu126").build == "cu130"
    assert choose_build([nvidia("8.9", OLD)], "linux", installed="cu130").build == "cu128"
    assert choose_build([nvidia("8.9")], "linux", installed="cpu").build == "cu130"
    assert choose_build([], "linux", installed="cu126").build == "cu126"


def test_gpus_of_amd_and_intel_are_asked_for_until_there_is_an_answer() -> None:
    amd, intel = Gpu("amd", "AMD GPU", "gfx1100"), Gpu("intel", "Arc A770")
    choice = choose_build([amd], "linux")
    assert choice.build == "rocm7.2"
    assert choice.question == "Found AMD GPU (gfx1100). Install the ROCm build of PyTorch?"
    assert not choose_build([amd], "linux", installed="rocm7.2").question
    assert choose_build([intel], "windows").build == "xpu"
    for gpu in (amd, intel):
        kept = choose_build([gpu], "linux", installed="cpu")
        assert (kept.build, kept.question) == ("cpu", "")


@pytest.mark.parametrize(
    ("gpu", "platform"),
    [
        (Gpu("amd", "AMD GPU", "gfx1036"), "linux"),  # the small one inside a desktop CPU
        (Gpu("amd", "AMD GPU", "gfx906"), "linux"),
        (Gpu("amd", "AMD Radeon RX 7900 XTX"), "windows"),
        (Gpu("intel", "Arc"), "linux-arm"),
    ],
)
def test_a_gpu_without_a_build_gets_the_default_one_and_is_named(gpu: Gpu, platform: str) -> None:
    choice = choose_build([gpu], platform)
    assert choice.build == DEFAULT[platform]
    assert "compute on the CPU" in choice.reason
    assert choice.unused == (gpu,)


def test_gpus_of_nvidia_come_first_on_a_computer_with_several_kinds() -> None:
    amd, intel = Gpu("amd", "AMD GPU", "gfx1100"), Gpu("intel", "Arc A770")
    choice = choose_build([amd, intel, nvidia("8.6")], "linux")
    assert (choice.build, choice.question, choice.unused) == ("cu130", "", (amd, intel))
    assert choose_build([nvidia("3.5"), amd], "linux").build == "rocm7.2"  # a GPU for the display
    assert choose_build([nvidia("3.5"), Gpu("amd", "AMD GPU", "gfx1036")], "linux").problem
    assert choose_build([amd, intel], "linux").unused == (intel,)


def test_macs_get_the_only_build_or_the_reason_why_there_is_none() -> None:
    assert choose_build([], "mac").build == "cpu"
    assert "GPU of this Mac" in choose_build([], "mac").reason
    old = choose_build([], "intel-mac")
    assert "no build for Python on Intel Macs" in old.problem
    assert "arm64 version of Python" in old.hint


def test_drivers_matter_only_to_builds_for_cuda() -> None:
    assert "580 or newer" in driver_problem("cu130", "575.1", "windows")
    assert "528.33 or newer" in driver_problem("cu128", "527.0", "windows")
    assert not driver_problem("cu128", "575.1", "windows")
    assert not driver_problem("cpu", "1.0", "linux")
    assert not driver_problem("rocm7.2", "", "linux")


def test_every_build_of_a_platform_is_complete() -> None:
    for build in CUDA_BUILDS:
        assert set(build.drivers) == set(build.architectures)
        assert {platform for platform, names in BUILDS.items() if build.name in names} == set(build.drivers)
    assert all(DEFAULT[platform] in names for platform, names in BUILDS.items() if names)
    assert not serves("xpu", nvidia("8.6"), "linux")
