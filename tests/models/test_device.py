from __future__ import annotations

import pytest
import torch

from acestep.core.errors import ConfigError
from acestep.models.device import choose_device, choose_dtype, empty_cache, memory_total_bytes, memory_used_bytes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that PyTorch reports; tests append names to the list."""
    devices: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in devices)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices.count("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
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


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_the_dtype_of_cuda_depends_on_the_compute_capability(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    selection = choose_dtype("cuda:0")
    assert selection.value is dtype
    assert f"{capability[0]}.{capability[1]}" in selection.reason


@pytest.mark.parametrize(("device", "dtype"), [("xpu", torch.bfloat16), ("mps", torch.float16), ("cpu", torch.float32)])
def test_the_dtype_of_other_devices_has_a_reason(device: str, dtype: torch.dtype) -> None:
    selection = choose_dtype(device)
    assert selection.value is dtype
    assert selection.reason


@pytest.mark.parametrize("name", ["bf16", "bfloat16"])
def test_a_dtype_can_be_requested_by_short_or_long_name(name: str) -> None:
    assert choose_dtype("cpu", name).value is torch.bfloat16
    with pytest.raises(ConfigError, match="bf15"):
        choose_dtype("cpu", "bf15")


def test_memory_functions_ignore_the_cpu() -> None:
    empty_cache("cpu")
    assert memory_total_bytes("cpu") is None
    assert memory_used_bytes("cpu") is None
