from __future__ import annotations

import pytest
import torch

from acestep.core.errors import ConfigError
from acestep.models.device import choose_device, choose_dtype, empty_cache, memory_total_bytes, memory_used_bytes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that PyTorch reports; tests put names into the list."""
    devices: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in devices)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices.count("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some Card")
    monkeypatch.setattr(torch.xpu, "is_available", lambda: "xpu" in devices)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: devices.count("xpu"))
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda: "Some Arc")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in devices)
    return devices


@pytest.mark.parametrize(
    ("present", "chosen", "reason"),
    [
        (["mps", "xpu", "cuda"], "cuda", "Some Card"),
        (["mps", "xpu"], "xpu", "Some Arc"),
        (["mps"], "mps", "Mac"),
        ([], "cpu", "no graphics card"),
    ],
)
def test_the_fastest_device_is_chosen_with_its_reason(
    present: list[str], chosen: str, reason: str, machine: list[str]
) -> None:
    machine.extend(present)
    choice = choose_device()
    assert choice.value == chosen
    assert reason in choice.reason


def test_a_device_that_was_asked_for_is_taken_if_it_is_there(machine: list[str]) -> None:
    machine.extend(["cuda", "cuda"])
    assert choose_device("cuda:1").value == "cuda:1"
    assert choose_device("cpu").value == "cpu"
    for name in ("cuda:2", "mps", "xpu", "toaster"):
        with pytest.raises(ConfigError, match=name):
            choose_device(name)


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_the_number_type_of_cuda_follows_its_generation(
    capability: tuple[int, int], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    choice = choose_dtype("cuda:0")
    assert choice.value is dtype
    assert f"{capability[0]}.{capability[1]}" in choice.reason


@pytest.mark.parametrize(("device", "dtype"), [("xpu", torch.bfloat16), ("mps", torch.float16), ("cpu", torch.float32)])
def test_the_number_type_of_other_devices_comes_with_its_reason(device: str, dtype: torch.dtype) -> None:
    choice = choose_dtype(device)
    assert choice.value is dtype
    assert choice.reason


@pytest.mark.parametrize("name", ["bf16", "bfloat16"])
def test_a_number_type_may_be_asked_for_in_both_spellings(name: str) -> None:
    assert choose_dtype("cpu", name).value is torch.bfloat16
    with pytest.raises(ConfigError, match="bf15"):
        choose_dtype("cpu", "bf15")


def test_the_cpu_has_no_memory_of_its_own_to_report_or_free() -> None:
    empty_cache("cpu")
    assert memory_total_bytes("cpu") is None
    assert memory_used_bytes("cpu") is None
