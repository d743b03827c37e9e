"""The machines that people own: what is installed, in which dtype they compute, what the doctor says, what trains."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.core.architectures import runs_on
from acestep.core.errors import ConfigError
from acestep.models import mps
from acestep.models.device import choose_device, choose_dtype
from acestep.system import select_build, torch_devices
from acestep.system.check import INSTALL
from acestep.system.device_check import check_device
from acestep.system.gpus import Gpu
from acestep.system.torch_builds import CUDA_BUILDS, DEFAULT, ROCM_TARGETS
from acestep.system.torch_devices import describe_torch
from acestep.training.configs import TrainJob
from acestep.training.distributed import placement

NEW, OLD = "580.65.06", "550.54.14"  # drivers for CUDA 13 and for CUDA 12
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"


@dataclass(frozen=True)
class Machine:
    """``device`` is what ``auto`` selects with the right build; ``linux`` and ``windows`` are those builds."""

    name: str
    gpu: Gpu | None
    device: str
    dtype: torch.dtype
    reason: str
    linux: str
    windows: str


def nvidia(name: str, capability: str, dtype: torch.dtype, build: str, driver: str = NEW) -> Machine:
    gpu = Gpu("nvidia", name, capability, driver)
    return Machine(f"{name}, {driver}", gpu, "cuda", dtype, f"compute capability {capability}", build, build)


AMD, INTEL = Gpu("amd", "AMD Radeon RX 7900 XTX", "gfx1100"), Gpu("intel", "Intel Arc A770")
MACHINES = [
    nvidia("GTX 1080", "6.1", torch.float32, "cu126"),
    nvidia("Tesla V100", "7.0", torch.float32, "cu126"),
    nvidia("Tesla T4", "7.5", torch.float32, "cu130"),
    nvidia("RTX 3060", "8.6", torch.bfloat16, "cu130"),
    nvidia("RTX 4090", "8.9", torch.bfloat16, "cu130"),
    nvidia("H100", "9.0", torch.bfloat16, "cu130"),
    nvidia("RTX 5090", "12.0", torch.bfloat16, "cu130"),
    nvidia("GTX 1080", "6.1", torch.float32, "cu126", OLD),
    nvidia("RTX 4090", "8.9", torch.bfloat16, "cu128", OLD),
    Machine("AMD", AMD, "cuda", torch.bfloat16, "AMD", "rocm7.2", "cpu"),
    Machine("Intel", INTEL, "xpu", torch.bfloat16, "Intel", "xpu", "xpu"),
    Machine("none", None, "cpu", torch.float32, "CPU", "cu130", "cpu"),
]
MAC = Machine("Mac", None, "mps", torch.float32, "Mac", "", "")
every_machine = pytest.mark.parametrize("machine", [*MACHINES, MAC], ids=lambda machine: machine.name)
each_system = pytest.mark.parametrize(
    ("machine", "platform", "build"),
    [
        pytest.param(machine, platform, getattr(machine, platform), id=f"{machine.name} {platform}")
        for machine in MACHINES
        for platform in ("linux", "windows")
    ]
    + [pytest.param(MAC, "mac", "cpu", id="Mac")],
)


def gpus_of(machine: Machine) -> list[Gpu]:
    return [machine.gpu] if machine.gpu else []


def architectures(build: str, platform: str) -> str:
    cuda = {each.name: each.architectures.get(platform, "") for each in CUDA_BUILDS}
    return ROCM_TARGETS if build.startswith("rocm") else cuda.get(build, "")


@pytest.fixture
def pytorch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes PyTorch behave as the build does on the machine."""

    def become(machine: Machine, build: str, platform: str) -> None:
        cuda, hip, xpu = build.startswith("cu"), build.startswith("rocm"), build == "xpu"
        gpu = machine.gpu
        sees = gpu is not None and {"nvidia": cuda, "amd": hip, "intel": xpu}[gpu.vendor]
        too_old = sees and gpu.vendor == "nvidia" and gpu.driver == OLD and build == "cu130"
        on_cuda, on_xpu = sees and not xpu and not too_old, sees and xpu
        capability = tuple(int(part) for part in gpu.architecture.split(".")) if sees and cuda else (11, 0)
        held = architectures(build, platform)
        properties = type("Properties", (), {"gcnArchName": "gfx1100:sramecc-"})

        def run(torch: Any, device: str, dtype: Any) -> str:
            return "" if device != "cuda:0" or hip or runs_on(held.split(), gpu.architecture) else NO_KERNEL

        monkeypatch.setattr(torch, "__version__", f"2.11.0+{build}")
        monkeypatch.setattr(torch.version, "cuda", f"{build[2:4]}.{build[4]}" if cuda and build != "cpu" else None)
        monkeypatch.setattr(torch.version, "hip", "7.2" if hip else None)
        monkeypatch.setattr(torch.version, "xpu", "20250302" if xpu else None)
        monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: held, raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: on_cuda)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: int(on_cuda))
        monkeypatch.setattr(torch.cuda, "init", lambda: None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: gpu.name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: properties)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: on_xpu)
        monkeypatch.setattr(torch.xpu, "device_count", lambda: int(on_xpu))
        monkeypatch.setattr(torch.xpu, "get_device_name", lambda *_: gpu.name)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: machine is MAC)
        monkeypatch.setattr(torch_devices, "run_kernel", run)
        monkeypatch.setattr(mps, "supports_long_convolutions", lambda: True)

    return become


@each_system
def test_the_installer_chooses_the_build(
    machine: Machine, platform: str, build: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(select_build, "this_platform", lambda: platform)
    monkeypatch.setattr(select_build, "find_gpus", lambda platform: gpus_of(machine))
    monkeypatch.setattr(select_build, "installed_build", lambda platform: "")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert select_build.main([]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{build} {'any' if build == DEFAULT[platform] else 'uv'} keep\n"
    assert (machine.gpu.name if machine.gpu else "no GPU found") in printed.err
    asked = machine.gpu is not None and machine.gpu.vendor != "nvidia" and build != DEFAULT[platform]
    assert ("Install the" in printed.err) == asked


@each_system
def test_the_doctor_approves_the_chosen_build_and_names_gpu_and_dtype(
    machine: Machine, platform: str, build: str, pytorch: Any
) -> None:
    pytorch(machine, build, platform)
    check = check_device(describe_torch(lambda device: None), gpus_of(machine), platform)
    assert check.ok, check
    assert not machine.gpu or machine.gpu.name in check.detail
    dtype = torch.float32 if (machine.name, platform) == ("AMD", "windows") else machine.dtype
    assert f"computes in {str(dtype).removeprefix('torch.')}" in check.detail


@each_system
def test_the_doctor_names_the_command_that_replaces_a_wrong_build(
    machine: Machine, platform: str, build: str, pytorch: Any
) -> None:
    pytorch(machine, DEFAULT[platform], platform)
    check = check_device(describe_torch(lambda device: None), gpus_of(machine), platform)
    right = build == DEFAULT[platform]
    optional = machine.gpu is not None and machine.gpu.vendor != "nvidia"  # the user may have declined
    assert check.ok == (right or optional)
    if not right:
        assert f"{INSTALL} --backend {build}" in check.detail + check.hint


@every_machine
def test_auto_selects_device_and_dtype_with_their_reasons(machine: Machine, pytorch: Any) -> None:
    pytorch(machine, machine.linux or "cpu", "linux")
    device = choose_device("auto")
    assert device.value == machine.device
    dtype = choose_dtype(device.value)
    assert dtype.value is machine.dtype
    assert device.reason
    assert machine.reason in dtype.reason


@pytest.fixture
def fabrics(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Fabric is created with; it would refuse devices that are not there."""
    created: list[dict[str, Any]] = []
    monkeypatch.setattr(placement, "Fabric", lambda **settings: created.append(settings))
    return created


def train_job(**settings: Any) -> TrainJob:
    return TrainJob(tensor_dir=Path("tensors"), checkpoint="base", out=Path("run"), **settings)


@every_machine
def test_training_accepts_the_device_and_the_dtype_that_auto_selects(
    machine: Machine, pytorch: Any, fabrics: list[dict[str, Any]]
) -> None:
    pytorch(machine, machine.linux or "cpu", "linux")
    placed = placement.choose_placement(train_job())
    assert (placed.device.value, placed.dtype.value) == (machine.device, machine.dtype)
    placement.make_fabric(torch.device(placed.device.value), placed.dtype.value)
    [settings] = fabrics
    precision = "32-true" if machine.dtype is torch.float32 else "bf16-mixed"
    assert settings["plugins"][0].precision == precision


@each_system
def test_a_build_without_code_for_the_gpu_is_rejected_before_training(
    machine: Machine, platform: str, build: str, pytorch: Any
) -> None:
    """The doctor fails for the same machines."""
    pytorch(machine, DEFAULT[platform], platform)
    if torch.cuda.is_available() and not runs_on(torch.cuda.get_arch_list(), machine.gpu.architecture):
        for device in ("auto", "cuda:0"):
            with pytest.raises(ConfigError, match=rf"{machine.gpu.architecture}.*sm_75") as caught:
                placement.choose_placement(train_job(device=device))
            assert "install script" in caught.value.hint
        assert placement.choose_placement(train_job(device="cpu")).device.value == "cpu"
    else:
        assert placement.choose_placement(train_job()).device.value in ("cpu", "mps", "xpu", "cuda")


@pytest.mark.parametrize(
    ("machine", "settings", "message"),
    [
        (machine, settings, message)
        for machine in (*MACHINES, MAC)
        for settings, message in (
            ({"device": "xpu" if machine.device == "cuda" else "cuda"}, "is not available"),
            ({"devices": 2}, f"devices is 2, but ({machine.device} is a single device|PyTorch finds 1 CUDA)"),
            ({"strategy": "fsdp", "devices": 1}, "but devices is 1"),
        )
        if machine.device != "cpu" or "devices" not in settings  # all processes share the CPU
    ],
    ids=lambda value: value.name if isinstance(value, Machine) else "",
)
def test_training_rejects_what_the_machine_does_not_have(
    machine: Machine, settings: dict[str, Any], message: str, pytorch: Any
) -> None:
    pytorch(machine, machine.linux or "cpu", "linux")
    with pytest.raises(ConfigError, match=message) as error:
        placement.choose_placement(train_job(**settings))
    assert error.value.hint
