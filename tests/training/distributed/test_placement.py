"""Device and dtype of a run, and Lightning Fabric on them, with mocked devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning_fabric.plugins.precision import MixedPrecision

from acestep.core.errors import ConfigError
from acestep.models.device import choose_device
from acestep.training.configs import TrainingConfig, TrainJob
from acestep.training.distributed.placement import choose_placement, make_fabric

Intel = Callable[[bool], list[torch.device]]


@pytest.fixture
def intel(monkeypatch: pytest.MonkeyPatch) -> Intel:
    """Makes PyTorch report an Intel GPU, with or without fp64; gives the list of the devices that are made current."""

    def make(has_fp64: bool) -> list[torch.device]:
        current: list[torch.device] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
        monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
        monkeypatch.setattr(torch.xpu, "get_device_name", lambda: "Some Arc")
        monkeypatch.setattr(torch.xpu, "get_device_properties", lambda _device: SimpleNamespace(has_fp64=has_fp64))
        monkeypatch.setattr(torch.xpu, "set_device", current.append)
        return current

    return make


def job(**training: str) -> TrainJob:
    return TrainJob(tensor_dir=Path("t"), checkpoint="c", out=Path("o"), training=TrainingConfig(**training))


def test_an_intel_gpu_is_selected_and_trained_on_in_bf16(intel: Intel) -> None:
    current = intel(False)
    assert choose_device().value == "xpu"
    placement = choose_placement(job())
    assert placement.dtype.value is torch.bfloat16
    fabric = make_fabric(torch.device(placement.device.value), placement.dtype.value)
    precision = fabric.strategy.precision
    assert fabric.device == torch.device("xpu", 0)
    assert isinstance(precision, MixedPrecision)
    assert (precision.device, precision.precision, precision.scaler) == ("xpu", "bf16-mixed", None)
    fabric.launch()
    assert current == [torch.device("xpu", 0)]


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_an_intel_gpu_without_fp64_trains_in_other_dtypes_than_fp16(dtype: str, intel: Intel) -> None:
    intel(False)
    make_fabric(torch.device("xpu"), choose_placement(job(mixed_precision=dtype)).dtype.value)
    with pytest.raises(ConfigError, match="loss scale needs fp64") as error:
        choose_placement(job(mixed_precision="fp16"))
    assert "bf16" in error.value.hint


def test_an_intel_gpu_with_fp64_trains_in_fp16(intel: Intel) -> None:
    intel(True)
    fabric = make_fabric(torch.device("xpu"), choose_placement(job(mixed_precision="fp16")).dtype.value)
    assert fabric.strategy.precision.scaler is not None
