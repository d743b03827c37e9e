"""DoRA: the length of each row of a weight is learned apart from its direction.

PEFT's own layer measures the rows in the precision of the base, so over bf16 a fresh adapter already changes the
answer, and what it calls scale turns the direction without the length. Here rows are measured in fp32 and the strength
goes straight from W to the trained weight.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from acestep.adapters.base import require_finite
from acestep.adapters.configs import DoRAConfig
from acestep.adapters.lora import NAME, LoRAAdapter, product
from acestep.models.quantize import QuantizedLinear, dequantized_weight

MAGNITUDE = "lora_magnitude_vector"


class DoRAAdapter(LoRAAdapter):
    """W + strength * (m * (W + scale * BA) / |W + scale * BA| - W) on each module; m [out], one for each row."""

    kind: ClassVar[str] = "dora"
    config_type: ClassVar[type[DoRAConfig]] = DoRAConfig

    def _prepare_layers(self, generator: torch.Generator) -> None:
        super()._prepare_layers(generator)
        for layer in self._layers.values():
            variant = _Decomposed(layer, self._scale(layer))
            layer.lora_magnitude_vector[NAME] = _Magnitude(variant.row_norms(layer))
            layer.lora_variant[NAME] = variant

    @classmethod
    def matches(cls, keys: list[str]) -> bool:
        return any(MAGNITUDE in key for key in keys)

    @staticmethod
    def delta(parts: dict[str, Tensor], weight: Tensor) -> Tensor:
        turned = weight + parts["lora_B"] @ parts["lora_A"]
        return turned * (parts[MAGNITUDE] / _row_norms(turned))[:, None] - weight

    def _layer_parameters(self, layer: Any) -> dict[str, nn.Parameter]:
        return {**super()._layer_parameters(layer), MAGNITUDE: layer.lora_magnitude_vector[NAME].weight}

    def set_strength(self, strength: float) -> None:
        for layer in self._layers.values():
            layer.lora_variant[NAME].strength = require_finite(strength)


class _Magnitude(nn.Module):
    """Where PEFT keeps it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)


class _Decomposed:
    """Tells a PEFT layer to add what DoRA adds."""

    def __init__(self, layer: Any, scale: float) -> None:
        self.strength, self._scale = 1.0, scale
        base = layer.get_base_layer()
        # A quantized row is a little shorter or longer than the true one, on which the file will be used.
        self._correction = (
            base.row_norms / _row_norms(dequantized_weight(base)) if isinstance(base, QuantizedLinear) else None
        )

    @torch.no_grad()
    def row_norms(self, layer: Any) -> Tensor:
        """[out] fp32 lengths of the rows of W + scale * BA; constants for the gradient (section 4.3 of the paper)."""
        a, b = layer.lora_A[NAME], layer.lora_B[NAME]
        with torch.autocast(a.weight.device.type, enabled=False):
            turned = torch.addmm(dequantized_weight(layer.get_base_layer()), b.weight, a.weight, alpha=self._scale)
            if hasattr(a, "start"):
                turned.addmm_(b.start, a.start, alpha=-self._scale)
        norms = _row_norms(turned)
        return norms if self._correction is None else norms * self._correction

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """``result`` [..., out] of the base, with what the adapter adds to it."""
        base, answer, dropout = module.get_base_layer(), result, module.lora_dropout[active_adapter]
        if module.training and not isinstance(dropout, nn.Identity):
            x = dropout(x)
            answer = base(x.to(result.dtype))
        if base.bias is not None:
            answer = answer - base.bias
        ratio = module.lora_magnitude_vector[active_adapter].weight / self.row_norms(module)
        added: Tensor = (ratio - 1) * answer + ratio * (self._scale * product(module, x))
        return result + self.strength * added


def _row_norms(weight: Tensor) -> Tensor:
    """[out], above zero so that an empty row stays empty."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=1)
    return norms.clamp_min(torch.finfo(torch.float32).tiny)
