"""Dropout of the inputs of adapters. On a CPU, PyTorch takes longer to draw the mask than to multiply by a weight."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

_LEVELS = 2**16  # of a random 16-bit integer
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes per element


class Dropout(nn.Dropout):
    """``nn.Dropout``. On a CPU the probability is rounded to a multiple of 2**-16, and so is the scale of the others.

    It draws from the global generator of the device, like PyTorch, and the same elements for each dtype.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p, self.training)
        return cast(Tensor, _DropoutOnCPU.apply(x, self.p))  # type: ignore[no-untyped-call]


class _DropoutOnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        kept = round((1 - p) * _LEVELS)
        mask = _draw_mask(x, kept)
        ctx.save_for_backward(mask)
        ctx.scale = _LEVELS / kept
        return _masked(x, mask, ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return _masked(gradient, mask, ctx.scale), None


def _draw_mask(x: Tensor, kept: int) -> Tensor:
    """Integers of the size of the elements of ``x``: all bits set with probability ``kept`` / 2**16, else none."""
    size = math.prod(x.shape)
    draws = torch.empty(-(-size // 4), dtype=torch.int64).random_(-(2**63), None)  # 4 elements from each
    below = draws.view(torch.int16)[:size].lt_(kept - _LEVELS // 2)
    return below.neg_().view(x.shape).to(_INTEGERS[x.element_size()])


def _masked(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    return (x.view(mask.dtype) & mask).view(x.dtype).mul_(scale)
