"""The LyCORIS modules of LoKr in plain PyTorch, without and with weight decomposition.

Weight decomposition normalizes the rows of W + D, where D = scale * kron(w1, w2), and multiplies them by learned
magnitudes m: (W + D) * m / |W + D|. Its strength is that of LyCORIS 4.1.3 (functional/general.py,
``weight_decompose``): (W + D) * (1 + strength * (m / |W + D| - 1)) scales the change of the magnitudes, not D.
The only exception is strength 0, which is the base model here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from acestep.adapters.lokr_file import MAGNITUDE, PARTS, product
from acestep.models.imports import without_bitsandbytes
from acestep.models.quantize import QuantizedLinear, dequantized_weight

with without_bitsandbytes():
    from lycoris.functional.lokr import kron_bypass
    from lycoris.modules.lokr import LokrModule

_EPS = torch.finfo(torch.float32).eps  # LyCORIS adds it to the norms


class Kronecker(LokrModule):  # type: ignore[misc]
    """x -> Wx + strength * Dx."""

    def bypass_forward_diff(self, h: Tensor, scale: float = 1.0) -> Tensor:
        if self.module_type != "linear":
            convolution: Tensor = super().bypass_forward_diff(h, scale)
            return convolution
        parts = [None if (part := getattr(self, name, None)) is None else part.to(h) for name in PARTS[:6]]
        # "torch": the other backends need Triton or a C compiler on the user's machine.
        update: Tensor = self.drop(kron_bypass(h, *parts, None, scale=self.scale * scale, backend="torch"))
        return update


class DecomposedKronecker(Kronecker):
    """x -> (W + D)x with learned magnitudes, one per output, or one per input in files of LyCORIS 2.

    The norms have no gradient (section 4.3 of the DoRA paper, https://arxiv.org/abs/2402.09353).
    """

    dora_scale: nn.Parameter

    def __init__(self, name: str, layer: nn.Module, **settings: Any) -> None:
        super().__init__(name, layer, **settings)
        weight = _weight_of(layer)
        norms = _norms(weight, per_input=False)
        # The norms of quantized rows differ slightly from those of the original weight, which the file is for.
        self._correction = layer.row_norms[:, None] / norms if isinstance(layer, QuantizedLinear) else None
        self.register_parameter(MAGNITUDE, nn.Parameter(self._corrected(norms)))

    def bypass_forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        output: Tensor = self.org_forward(x)
        if scale == 0.0:
            return output
        factor = 1 + scale * (self.dora_scale / self._current_norms() - 1)
        per_input = len(factor) == 1
        factor = factor.flatten() if self.module_type == "linear" else factor.view(-1, 1)
        if per_input:
            changed = self._without_bias(self.org_forward(x * (factor - 1).to(x)))
            return output + changed + self.bypass_forward_diff(x * factor.to(x))
        changed = self._without_bias(output) * (factor - 1).to(output)
        return output + changed + self.bypass_forward_diff(x) * factor.to(output)

    def _without_bias(self, output: Tensor) -> Tensor:
        bias = self.org_module[0].bias
        return output if bias is None else output - (bias if self.module_type == "linear" else bias[:, None])

    @torch.no_grad()
    def _current_norms(self) -> Tensor:
        """|W + D| + eps in fp32, in the shape of the magnitudes."""
        weight = _weight_of(self.org_module[0])
        parts = {name: value for name in PARTS if (value := getattr(self, name, None)) is not None}
        with torch.autocast(weight.device.type, enabled=False):
            direction = product(parts, weight.shape).mul_(self.scale).add_(weight)
            return self._corrected(_norms(direction, per_input=len(self.dora_scale) == 1))

    def _corrected(self, norms: Tensor) -> Tensor:
        return _EPS + (norms if self._correction is None or len(norms) == 1 else norms * self._correction)


def decomposed_delta(weight: Tensor, added: Tensor, magnitudes: Tensor, strength: float) -> Tensor:
    """The weight update for ``weight`` [out, in], whose ``in`` may include the kernel, and D of the same shape."""
    if strength == 0.0:
        return torch.zeros_like(weight)
    direction = (weight + added).view(len(weight), magnitudes.shape[1], -1)  # [out, 1, in] or [out, in, kernel]
    norms = _norms(direction, per_input=len(magnitudes) == 1) + _EPS
    factor = 1 + strength * (magnitudes.view(*norms.shape) / norms - 1)
    return (direction * factor).view(weight.shape) - weight


def _weight_of(layer: Any) -> Tensor:
    return dequantized_weight(layer).detach()


def _norms(weight: Tensor, *, per_input: bool) -> Tensor:
    """Norms of the rows [out, 1, ...] of ``weight`` [out, in, ...], or of its columns [1, in, ...]."""
    dims = [dim for dim in range(weight.dim()) if dim != (1 if per_input else 0)]
    norms: Tensor = torch.linalg.vector_norm(weight, dim=dims, keepdim=True)
    return norms
