"""The backward passes of the fused elementwise functions against numerical gradients."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from acestep.models.fused import gated_silu, modulated_rms_norm, rms_norm, rotary_embedding, rotated_rms_norm


def values(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def norm_of(weight: Tensor) -> Any:
    return SimpleNamespace(eps=1e-3, weight=weight)


def test_gradients_of_the_norm_with_and_without_modulation() -> None:
    def modulated(x: Tensor, weight: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return modulated_rms_norm(norm_of(weight), x, shift, scale)

    assert torch.autograd.gradcheck(
        modulated, (values(1, 2, 3, 8), values(2, 8), values(3, 2, 1, 8), values(4, 2, 1, 8))
    )
    assert torch.autograd.gradcheck(lambda x, weight: rms_norm(norm_of(weight), x), (values(1, 3, 8), values(2, 8)))


def test_gradients_of_the_norm_of_rotated_heads() -> None:
    cos, sin = (table.double() for table in rotary_embedding(3, 8, 1e4, torch.device("cpu"), torch.float32))

    def rotated(x: Tensor, weight: Tensor) -> Tensor:
        return rotated_rms_norm(norm_of(weight), x, (cos, sin))

    assert torch.autograd.gradcheck(rotated, (values(1, 2, 3, 2, 8), values(2, 8)))


def test_gradients_of_the_gated_unit() -> None:
    assert torch.autograd.gradcheck(gated_silu, (values(1, 2, 3, 8), values(2, 2, 3, 8)))


def test_fused_functions_leave_their_inputs_unchanged() -> None:
    x = values(1, 1, 3, 1, 8).float().detach().requires_grad_()
    before = x.detach().clone()
    norm = norm_of(torch.full((8,), 3.0))
    rotary = rotary_embedding(3, 8, 1e4, torch.device("cpu"), torch.float32)
    outputs = rms_norm(norm, x), rotated_rms_norm(norm, x, rotary), gated_silu(x, x)
    gradient = torch.ones_like(x)
    torch.autograd.backward(outputs, [gradient] * 3)
    assert torch.equal(x, before)
    assert torch.equal(gradient, torch.ones_like(x))
