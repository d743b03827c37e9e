from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from acestep.core.errors import ConfigError
from acestep.models.device import (
    choose_device,
    choose_dtype,
    empty_cache,
    encoder_dtype,
    memory_free_bytes,
    memory_total_bytes,
    memory_used_bytes,
)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that PyTorch reports; tests append names to the list."""
    devices: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in devices)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices.count("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 6))
    monkeypatch.setattr(torch.xpu, "is_available", lambda: "xpu" in devices)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: devices.count("xpu"))
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda: "Some Arc")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in devices)
    return devices


@pytest.mark.parametrize(
    ("available", "expected", "reason"),
    [
        (["mps", "xpu", "cuda"], "cuda", "Some GPU"),
        (["mps", "xpu"], "xpu", "Some Arc"),
        (["mps"], "mps", "Mac"),
        ([], "cpu", "no supported GPU"),
    ],
)
def test_auto_selects_the_fastest_device_and_gives_the_reason(
    available: list[str], expected: str, reason: str, machine: list[str]
) -> None:
    machine.extend(available)
    selection = choose_device()
    assert selection.value == expected
    assert reason in selection.reason


def test_a_requested_device_must_be_available(machine: list[str]) -> None:
    machine.extend(["cuda", "cuda"])
    assert choose_device("cuda:1").value == "cuda:1"
    assert choose_device("cpu").value == "cpu"
    for name in ("cuda:2", "mps", "xpu", "toaster"):
        with pytest.raises(ConfigError, match=name):
            choose_device(name)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes PyTorch report a GPU: a compute capability, "rocm", "xpu" or "mps". Gives the name of its device."""

    def make(name: str) -> str:
        monkeypatch.setattr(torch.version, "hip", "7.1" if name == "rocm" else None)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        capability = (11, 0) if name == "rocm" else tuple(map(int, name.split("."))) if "." in name else None
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
        return "cuda:0" if capability else name

    return make


@pytest.mark.parametrize(
    ("name", "dtype", "reason"),
    [
        ("6.1", torch.float32, "compute capability 6.1"),
        ("7.0", torch.float32, "compute capability 7.0"),
        ("7.5", torch.float32, "compute capability 7.5"),
        ("8.0", torch.bfloat16, "compute capability 8.0"),
        ("8.6", torch.bfloat16, "compute capability 8.6"),
        ("12.0", torch.bfloat16, "compute capability 12.0"),
        ("rocm", torch.bfloat16, "AMD"),
        ("xpu", torch.bfloat16, "Intel"),
        ("mps", torch.float32, "Mac"),
        ("cpu", torch.float32, "CPU"),
    ],
)
def test_auto_selects_bf16_where_the_gpu_computes_in_it_and_otherwise_fp32(
    name: str, dtype: torch.dtype, reason: str, gpu: Callable[[str], str]
) -> None:
    selection = choose_dtype(gpu(name))
    assert selection.value is dtype
    assert reason in selection.reason


def test_an_amd_gpu_without_bf16_gets_fp32(gpu: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    device = gpu("rocm")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert choose_dtype(device).value is torch.float32


@pytest.mark.parametrize(
    ("name", "warned"), [("7.5", "slow: emulated on compute capability 7.5"), ("mps", "slow"), ("8.6", ""), ("xpu", "")]
)
def test_bf16_can_be_requested_on_a_gpu_that_emulates_it(name: str, warned: str, gpu: Callable[[str], str]) -> None:
    selection = choose_dtype(gpu(name), "bf16")
    assert selection.value is torch.bfloat16
    assert warned in selection.reason
    assert ("slow" in selection.reason) == bool(warned)


@pytest.mark.parametrize("device", ["cpu", "mps", "xpu", "cuda"])
def test_fp16_can_be_requested_on_every_device_and_leaves_encoders_and_vae_in_fp32(device: str) -> None:
    selection = choose_dtype(device, "fp16")
    assert selection.value is torch.float16
    assert "encoders and VAE compute in fp32" in selection.reason
    assert encoder_dtype(selection.value) is torch.float32
    assert encoder_dtype(torch.bfloat16) is torch.bfloat16


@pytest.mark.parametrize("name", ["bf16", "bfloat16"])
def test_a_dtype_can_be_requested_by_short_or_long_name(name: str) -> None:
    assert choose_dtype("cpu", name).value is torch.bfloat16
    with pytest.raises(ConfigError, match="bf15"):
        choose_dtype("cpu", "bf15")


def test_memory_functions_ignore_the_cpu() -> None:
    empty_cache("cpu")
    assert memory_total_bytes("cpu") is None
    assert memory_used_bytes("cpu") is None


def test_free_memory_is_that_of_the_gpu_or_of_the_computer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: {"cuda:1": (5, 8)}[device])
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 8)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 2)
    assert memory_free_bytes("cuda:1") == 5
    assert memory_free_bytes("mps") == 6
    free = memory_free_bytes("cpu")
    assert free is not None
    assert free > 50 * 2**20
