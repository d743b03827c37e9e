"""The verdict on the GPU names it, says what the installed build of PyTorch holds, and gives the command that helps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from acestep.models import mps
from acestep.system import device_check, torch_devices
from acestep.system.check import INSTALL, Check
from acestep.system.device_check import check_device, check_imports
from acestep.system.gpus import Gpu
from acestep.system.torch_devices import describe_torch, run_kernel

FROM_TURING = "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120"
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"
GTX_1080 = Gpu("nvidia", "GTX 1080", "6.1", "580.65.06")
RTX_4090 = Gpu("nvidia", "RTX 4090", "8.9", "580.65.06")
RX_7900 = Gpu("amd", "AMD GPU", "gfx1100")


def device(gpu: Gpu, index: int = 0, problem: str = "", kind: str = "cuda") -> dict[str, str]:
    facts = {"dtype": "bfloat16", "reason": "it supports bf16", "note": "", "problem": problem}
    return {"device": f"{kind}:{index}", "name": gpu.name, "architecture": gpu.architecture, **facts}


def answer(*devices: dict[str, str], build: str = "cu130", problem: str = "") -> dict[str, Any]:
    """What ``describe_torch`` gives with this build of PyTorch."""
    versions = {"cu130": "13.0", "cu126": "12.6", "rocm7.2": "7.2", "xpu": "20250302"}
    return {
        "torch": "2.11.0" if build == "default" else f"2.11.0+{build}",
        "cuda": versions.get(build) if build.startswith("cu") else None,
        "hip": versions.get(build) if build.startswith("rocm") else None,
        "xpu": versions.get(build) if build == "xpu" else None,
        "architectures": FROM_TURING.split() if build == "cu130" else ["gfx1100"] if build == "rocm7.2" else [],
        "problem": problem,
        "cpu": {"dtype": "float32", "reason": "exact"},
        "devices": list(devices),
    }


def test_a_gpu_that_computes_is_named_with_build_and_dtype() -> None:
    check = check_device(answer(device(RTX_4090)), [RTX_4090], "linux")
    assert check == Check(
        "device",
        True,
        "cuda:0 RTX 4090 (compute capability 8.9, built for CUDA 13.0) computes in bfloat16: it supports bf16",
    )


def test_a_gpu_that_the_build_has_no_code_for_fails_with_the_command_that_helps() -> None:
    check = check_device(answer(device(GTX_1080, problem=NO_KERNEL)), [GTX_1080], "linux")
    assert not check.ok
    assert "GTX 1080 (compute capability 6.1, built for CUDA 13.0) cannot be used" in check.detail
    assert f"this build is for {FROM_TURING}" in check.detail
    assert f"Run {INSTALL} --backend cu126" in check.hint


def test_a_kernel_that_fails_on_a_supported_gpu_is_reported_as_it_is() -> None:
    check = check_device(answer(device(RTX_4090, problem="a convolution gave wrong numbers")), [RTX_4090], "linux")
    assert not check.ok
    assert "cannot be used: a convolution gave wrong numbers" in check.detail
    assert "check its driver" in check.hint
    assert f"{INSTALL} --cpu" in check.hint


def test_one_of_several_gpus_without_code_does_not_fail_the_first() -> None:
    found = [RTX_4090, GTX_1080]
    check = check_device(answer(device(RTX_4090), device(GTX_1080, 1, NO_KERNEL)), found, "linux")
    assert check.ok
    assert "RTX 4090" in check.detail
    assert "cuda:1 GTX 1080 (compute capability 6.1, built for CUDA 13.0) cannot be used" in check.detail

    reverse = check_device(answer(device(GTX_1080, 0, NO_KERNEL), device(RTX_4090, 1)), found, "linux")
    assert not reverse.ok
    assert "--backend cu126" in reverse.hint  # it serves both
    assert "--device cuda:1" in reverse.hint


def test_a_driver_that_is_too_old_is_reported_with_the_older_build() -> None:
    old = Gpu("nvidia", "RTX 4090", "8.9", "550.54.14")
    check = check_device(answer(problem="The NVIDIA driver on your system is too old"), [old], "linux")
    assert not check.ok
    assert "PyTorch (built for CUDA 13.0) cannot use RTX 4090" in check.detail
    assert "the NVIDIA driver 550.54.14 is too old for CUDA 13.0, which needs 580 or newer" in check.detail
    assert f"Run {INSTALL} --backend cu128" in check.hint

    oldest = check_device(answer(), [Gpu("nvidia", "Tesla K80", "", "470.82.01")], "linux")
    assert not oldest.ok
    assert "Update the driver" in oldest.hint


@pytest.mark.parametrize("platform", ["linux", "windows"])
def test_a_driver_without_cuda_in_torch_is_a_failure_with_the_build_to_install(platform: str) -> None:
    check = check_device(answer(build="cpu"), [GTX_1080], platform)
    assert not check.ok
    assert "PyTorch (built without CUDA) cannot use GTX 1080" in check.detail
    assert f"Run {INSTALL} --backend cu126" in check.hint


def test_the_default_build_of_windows_has_no_cuda() -> None:
    facts = answer(build="default") | {"cuda": None}
    assert f"Run {INSTALL} --backend cu130" in check_device(facts, [RTX_4090], "windows").hint


def test_a_gpu_that_torch_does_not_see_although_everything_fits_shows_the_reason() -> None:
    check = check_device(answer(problem="No CUDA GPUs are available"), [RTX_4090], "linux")
    assert not check.ok
    assert check.detail.endswith("No CUDA GPUs are available")
    assert "CUDA_VISIBLE_DEVICES" in check.hint


def test_a_build_for_amd_is_checked_by_its_targets() -> None:
    good = check_device(answer(device(RX_7900), build="rocm7.2"), [RX_7900], "linux")
    assert good.ok
    assert "cuda:0 AMD GPU (gfx1100, built for ROCm 7.2) computes in bfloat16" in good.detail
    small = Gpu("amd", "AMD GPU", "gfx1036")
    bad = check_device(
        answer(device(small, problem="HIP error: invalid device function"), build="rocm7.2"), [], "linux"
    )
    assert not bad.ok
    assert "this build is for gfx1100" in bad.detail
    unseen = check_device(answer(build="rocm7.2"), [RX_7900], "linux")
    assert not unseen.ok
    assert "add your user to the groups render and video" in unseen.hint


def test_a_build_for_intel_is_named() -> None:
    arc = Gpu("intel", "Arc A770")
    check = check_device(answer(device(arc, kind="xpu"), build="xpu"), [arc], "windows")
    assert check.ok
    assert "xpu:0 Arc A770 (built for XPU 20250302) computes in bfloat16" in check.detail


@pytest.mark.parametrize(("gpu", "build"), [(RX_7900, "rocm7.2"), (Gpu("intel", "Arc A770"), "xpu")])
def test_a_gpu_of_amd_or_intel_that_is_not_used_is_no_failure(gpu: Gpu, build: str) -> None:
    check = check_device(answer(), [gpu], "linux")
    assert check.ok
    assert "the CPU computes in float32: exact" in check.detail
    assert f"{gpu} is not used by this build" in check.detail
    assert f"{INSTALL} --backend {build} installs the build for it" in check.detail


def test_the_other_gpu_of_a_computer_with_two_kinds_is_named() -> None:
    check = check_device(answer(device(RTX_4090)), [RTX_4090, RX_7900], "linux")
    assert check.ok
    assert "AMD GPU (gfx1100) is not used by this build" in check.detail


def test_a_package_that_cannot_be_imported_is_reported_with_its_error() -> None:
    [check] = check_imports(["json", "no_such_module", "wave"])
    assert not check.ok
    assert check.detail == "importing no_such_module failed: ModuleNotFoundError: No module named 'no_such_module'"


def test_this_computer_is_checked_in_a_child_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(device_check, "find_gpus", lambda platform: [RTX_4090])
    imports, check = check_imports(["json"])
    assert imports.ok
    assert not check.ok
    assert "cannot use RTX 4090" in check.detail


def test_a_device_that_ends_the_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = 'import os; print(\'{"step": "using cuda:0"}\', flush=True); os.abort()'
    monkeypatch.setattr(device_check, "_CHILD", crash)
    imports, check = check_imports([])
    assert imports.ok
    assert not check.ok
    assert check.detail.startswith("using cuda:0 failed: exited with code")
    assert "Update its driver" in check.hint


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_kernel_computes_the_same_in_every_dtype(dtype: torch.dtype) -> None:
    assert run_kernel(torch, "cpu", dtype) == ""


def test_a_kernel_that_fails_or_gives_wrong_numbers_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "meta" in run_kernel(torch, "meta", torch.float32)  # has no numbers
    exact = torch.nn.functional.conv1d

    def wrong(signal: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return exact(signal, kernel) + (signal.dtype == torch.bfloat16)

    monkeypatch.setattr(torch.nn.functional, "conv1d", wrong)
    assert run_kernel(torch, "cpu", torch.bfloat16) == "a convolution gave wrong numbers"
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda left, right: left * (left.dtype == torch.float32))
    assert run_kernel(torch, "cpu", torch.bfloat16) == "a matrix multiplication gave wrong numbers"


def test_a_gpu_whose_memory_is_full_is_not_reported_as_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(mps, "supports_long_convolutions", lambda: True)
    monkeypatch.setattr(torch.Tensor, "to", full)
    [gpu] = describe_torch(lambda device: None)["devices"]
    assert (gpu["problem"], gpu["note"]) == ("", "not tested: its memory is full")


def test_every_visible_gpu_is_used_in_its_own_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device[-1]}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: ((8, 9), (7, 5))[int(str(device)[-1])])
    monkeypatch.setattr(
        torch_devices, "run_kernel", lambda torch, device, dtype: used.append(f"{device} {dtype}") or ""
    )
    described = describe_torch(lambda device: used.append(device))
    assert [(each["name"], each["architecture"]) for each in described["devices"]] == [
        ("GPU 0", "8.9"),
        ("GPU 1", "7.5"),
    ]
    assert used[:2] == ["cuda:0", "cuda:0 torch.bfloat16"]
    assert described["devices"][1]["dtype"] != "bfloat16"
    assert described["torch"] == torch.__version__


@pytest.mark.parametrize(("supported", "note"), [(True, ""), (False, "the VAE computes on the CPU: MPS on this Mac")])
def test_a_mac_whose_convolutions_are_limited_is_reported(
    supported: bool, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch_devices, "run_kernel", lambda torch, device, dtype: "")
    monkeypatch.setattr(mps, "supports_long_convolutions", lambda: supported)
    [gpu] = describe_torch(lambda device: None)["devices"]
    assert (gpu["device"], gpu["name"]) == ("mps", "Apple GPU")
    assert bool(gpu["note"]) == (not supported)
    check = check_device(answer(gpu, build="default") | {"cuda": None}, [], "mac")
    assert check.ok
    assert note in check.detail


def test_the_reason_why_cuda_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old\nUpdate it")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", fail)
    described = describe_torch(lambda device: None)
    assert described["problem"] == "The NVIDIA driver on your system is too old"
    assert described["devices"] == []
