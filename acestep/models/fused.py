"""Elementwise parts of the transformer with a backward pass of their own.

Autograd would save every intermediate result in fp32, and would read and write each several times. Here the input is
saved as it is, and the intermediate results are computed again. Values and gradients are those of the composed
functions within rounding. ``torch.compile`` gets the composed functions, which it fuses itself: it loses the gradients
that depend on ``ctx.needs_input_grad``. Letters: B samples, T tokens, D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from acestep.models.device import under_autocast
from acestep.models.imports import without_bitsandbytes

with without_bitsandbytes():
    from diffusers.models.normalization import RMSNorm
    from diffusers.models.transformers.ace_step_transformer import _ace_step_rotary_freqs

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines [T, 1, d]; the sines of the first half are negative."""


def rms_norm(norm: RMSNorm, x: Tensor) -> Tensor:
    """norm(x): x / sqrt(mean(x²) + eps) * weight; x is [..., D]."""
    return _apply_norm(x, norm.eps, norm.weight)


def modulated_rms_norm(norm: RMSNorm, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift; x is [B, T, D], shift and scale are [B, 1, D]."""
    return _apply_norm(x, norm.eps, _wide(norm.weight) * (1 + _wide(scale)), shift)


def rotary_embedding(length: int, width: int, theta: float, device: torch.device, dtype: torch.dtype) -> Rotary:
    """The rotary embedding of ``length`` tokens in heads of ``width``, in fp32 after rounding to ``dtype``."""
    cos, sin = (values.float()[:, None, :] for values in _ace_step_rotary_freqs(length, width, theta, device, dtype))
    sin[..., : width // 2].neg_()  # the real part of a product is ac - bd
    return cos, sin


def rotated_rms_norm(norm: RMSNorm, x: Tensor, rotary: Rotary) -> Tensor:
    """The rotary embedding of norm(x): the halves of a head are real and imaginary parts, as in Qwen3.

    Args:
        x: [B, T, heads, d].
        rotary: ``rotary_embedding`` of T tokens.
    """
    if torch.compiler.is_compiling():
        values = _composed_norm(x, norm.eps, norm.weight)
        cos, sin = rotary
        return (values * cos + _swap_halves(values) * sin).to(x.dtype)
    return cast(Tensor, _RotatedRMSNorm.apply(x, norm.eps, norm.weight, *rotary))  # type: ignore[no-untyped-call]


def gated_silu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    if torch.compiler.is_compiling():
        return F.silu(gate) * up
    return cast(Tensor, _GatedSiLU.apply(gate, up))  # type: ignore[no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, weight: Tensor, shift: Tensor | None, dtype: torch.dtype) -> Tensor:
        values, inverse = _normalize(x, eps)
        ctx.save_for_backward(x, inverse, weight)
        ctx.shift_shape = None if shift is None else shift.shape
        values.mul_(weight)
        return (values if shift is None else values.add_(shift)).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, weight = ctx.saved_tensors
        needs_x, _, needs_weight, needs_shift, _ = ctx.needs_input_grad
        of_weight = (gradient * x * inverse).sum_to_size(weight.shape) if needs_weight else None
        of_shift = _wide(gradient).sum_to_size(ctx.shift_shape) if needs_shift else None
        if not needs_x:
            return None, None, of_weight, of_shift, None
        before = gradient.to(inverse.dtype, copy=True).mul_(weight)  # overwritten
        return _backward_of_normalize(before, x, inverse), None, of_weight, of_shift, None


class _RotatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float, weight: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        values, inverse = _normalize(x, eps)
        ctx.save_for_backward(x, inverse, weight, cos, sin)
        values.mul_(weight)
        return _swap_halves(values).mul_(sin).addcmul_(values, cos).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, weight, cos, sin = ctx.saved_tensors
        gradient = gradient.to(inverse.dtype)
        before = _swap_halves(gradient * sin).addcmul_(gradient, cos)  # the inverse rotation
        needs_x, _, needs_weight, *_ = ctx.needs_input_grad
        of_weight = (before * x * inverse).sum_to_size(weight.shape) if needs_weight else None
        of_x = _backward_of_normalize(before.mul_(weight), x, inverse) if needs_x else None
        return of_x, None, of_weight, None, None


class _GatedSiLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)


def _apply_norm(x: Tensor, eps: float, weight: Tensor | None, shift: Tensor | None = None) -> Tensor:
    """The result has the dtype of the computation."""
    dtype = torch.get_autocast_dtype(x.device.type) if under_autocast(x.device) else x.dtype
    if torch.compiler.is_compiling():
        values = _composed_norm(x, eps, weight)
        return (values if shift is None else values + shift).to(dtype)
    return cast(Tensor, _RMSNorm.apply(x, eps, weight, shift, dtype))  # type: ignore[no-untyped-call]


def _composed_norm(x: Tensor, eps: float, weight: Tensor | None) -> Tensor:
    values = _wide(x)
    normalized = values * torch.rsqrt(values.square().mean(dim=-1, keepdim=True) + eps)
    return normalized if weight is None else normalized * weight


def _wide(x: Tensor | None) -> Tensor:
    """In fp32, unless it is fp64."""
    assert x is not None
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _normalize(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x / sqrt(mean(x²) + eps), a new tensor, and the inverse root [..., 1]; at least fp32."""
    values = x.to(torch.promote_types(x.dtype, torch.float32), copy=True)  # overwritten
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    inverse = (norm.square_() / x.shape[-1]).add_(eps).rsqrt_()
    return values.mul_(inverse), inverse


def _backward_of_normalize(gradient: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """The gradient of x from that of the normalized values, which is overwritten."""
    values = x.to(gradient.dtype)
    projection = (gradient * values).sum(dim=-1, keepdim=True)
    factor = projection.mul_(inverse.pow(3)).div_(-x.shape[-1])
    return gradient.mul_(inverse).addcmul_(values, factor).to(x.dtype)


def _swap_halves(x: Tensor) -> Tensor:
    """The second half of the last dimension, then the first: a new tensor."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([second, first], dim=-1)
