"""Where the VAE computes on a Mac, with a mocked MPS device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from acestep.models import dit, load, mps
from acestep.models.checkpoint import find_checkpoint
from acestep.models.mps import (
    attention_implementation,
    choose_vae_device,
    decomposition_device,
    same_random_numbers,
)
from acestep.models.vae import load_vae_beside

Mac = Callable[[Callable[..., Any]], list[int]]


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mac]:
    """Replaces the convolution on MPS by a function; gives the list of the lengths that it is called with."""
    lengths: list[int] = []

    def make(conv1d: Callable[..., Any]) -> list[int]:
        def counted(signal: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
            lengths.append(signal.shape[-1])
            return conv1d(signal, kernel)

        ones = torch.ones
        monkeypatch.setattr(torch, "ones", lambda *shape, device=None: ones(*shape))
        monkeypatch.setattr(mps.F, "conv1d", counted)
        mps.supports_long_convolutions.cache_clear()
        return lengths

    yield make
    mps.supports_long_convolutions.cache_clear()


def missing(*_: Any) -> Any:
    raise NotImplementedError("Output channels > 65536 not supported at the MPS device.")


def wrong(signal: torch.Tensor, _kernel: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(signal)


@pytest.mark.parametrize("conv1d", [missing, wrong])
def test_the_vae_computes_on_the_cpu_if_mps_lacks_long_convolutions(conv1d: Callable[..., Any], mac: Mac) -> None:
    lengths = mac(conv1d)
    assert choose_vae_device("mps").value == "cpu"
    assert "65,537 outputs" in choose_vae_device("mps").reason
    assert lengths == [65_537]  # tried once


def test_the_vae_computes_on_mps_if_it_has_them(mac: Mac) -> None:
    mac(torch.nn.functional.conv1d)
    assert choose_vae_device("mps").value == "mps"


def test_other_devices_are_not_tried(mac: Mac) -> None:
    lengths = mac(missing)
    assert [choose_vae_device(name).value for name in ("cuda:1", "xpu", "cpu")] == ["cuda:1", "xpu", "cpu"]
    assert not lengths


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("mps", torch.float16, ("cpu", torch.float32)),
        ("mps", torch.bfloat16, ("cpu", torch.float32)),
        ("cuda", torch.float16, ("cuda", torch.float32)),
        ("cuda", torch.bfloat16, ("cuda", torch.bfloat16)),
    ],
)
def test_the_vae_is_loaded_in_a_dtype_that_suits_its_device(
    device: str,
    dtype: torch.dtype,
    expected: tuple[str, torch.dtype],
    mac: Mac,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mac(missing)
    monkeypatch.setattr(load, "load_vae", lambda _checkpoint, *, device, dtype: (device, dtype))
    assert load_vae_beside(find_checkpoint(tiny_checkpoint), device=device, dtype=dtype) == expected


def test_attention_is_not_fused_and_decompositions_are_computed_on_the_cpu() -> None:
    assert [attention_implementation(name) for name in ("mps", "cuda:1", "cpu")] == ["eager", "sdpa", "sdpa"]
    assert decomposition_device(torch.device("mps")) == torch.device("cpu")
    assert decomposition_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_gradient_checkpointing_draws_the_same_dropout_in_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        torch.mps, "get_rng_state", torch.get_rng_state
    )  # the generator of the CPU stands for that of MPS
    monkeypatch.setattr(torch.mps, "set_rng_state", torch.set_rng_state)
    x = torch.ones(1000, requires_grad=True)

    def dropped(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x.exp(), 0.5)

    output = checkpoint(dropped, x, use_reentrant=False, preserve_rng_state=False, context_fn=same_random_numbers)
    between = torch.get_rng_state()
    output.sum().backward()
    assert torch.equal(x.grad, output)
    assert torch.equal(torch.get_rng_state(), between)


def test_layers_on_mps_are_checkpointed_with_the_same_random_numbers(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(dit, "checkpoint", lambda _layer, *_, **given: options.append(given))
    decoder = load.load_dit(tiny_checkpoint)
    decoder.enable_gradient_checkpointing()
    for device in ("mps", "cuda"):
        decoder._gradient_checkpointing_func(decoder.layers[0], SimpleNamespace(device=torch.device(device)))
    assert options == [{"use_reentrant": False, "context_fn": same_random_numbers}, {"use_reentrant": False}]
