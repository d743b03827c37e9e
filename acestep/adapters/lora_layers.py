"""The forward pass of LoRA and PiSSA in PEFT's layers, alone or together with layers that have the same input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor

from acestep.models.device import under_autocast

NAME = "default"  # PEFT's default adapter name


def project_jointly(layers: Sequence[Any], x: Tensor) -> list[Tensor]:
    """The outputs of linear layers for the same input, with the same dropout."""
    dropped = _dropped(layers[0], x)
    return [
        layer.lora_variant[NAME].add(layer, layer.base_layer(x), dropped, reduced)
        for layer, reduced in zip(layers, _reduced(layers, dropped), strict=True)
    ]


def _dropped(layer: Any, x: Tensor) -> Tensor:
    """``x`` with dropout, in the dtype of A unless autocast casts both."""
    x = layer.lora_dropout[NAME](x)
    x = x.contiguous()  # otherwise torch uses another kernel for weights without gradient, and results differ
    return x if under_autocast(x.device) else x.to(layer.lora_A[NAME].weight.dtype)


def _reduced(layers: Sequence[Any], x: Tensor) -> Sequence[Tensor]:
    """A x [..., r] of each layer."""
    halves = [layer.lora_A[NAME] for layer in layers]
    if len(halves) == 1 or hasattr(halves[0], "start"):  # products that PiSSA subtracts are to be rounded equally
        return [a(x) for a in halves]
    joined = F.linear(x, torch.cat([a.weight for a in halves]))
    return joined.split_with_sizes([len(a.weight) for a in halves], dim=-1)


def product(layer: Any, x: Tensor, reduced: Tensor, scale: float) -> Tensor:
    """``scale`` * B A x [..., out] of a PEFT layer, minus that of its PiSSA initialization; ``reduced`` is A x."""
    a, b = layer.lora_A[NAME], layer.lora_B[NAME]
    found: Tensor = b(reduced * scale)
    if hasattr(a, "start"):
        found = found - F.linear(F.linear(x, a.start) * scale, b.start)
    return found


class LowRank:
    """The forward pass of LoRA and PiSSA as a variant of a PEFT layer."""

    def forward(self, module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        """The output of the base layer ``result`` [..., out] plus that of the adapter."""
        dropped = _dropped(module, x)
        return self.add(module, result, dropped, *_reduced([module], dropped))

    def add(self, layer: Any, result: Tensor, dropped: Tensor, reduced: Tensor) -> Tensor:
        """The same for ``dropped``, the input of the layer after dropout, and ``reduced``, its product with A."""
        return (result + product(layer, dropped, reduced, layer.scaling[NAME])).to(result.dtype)
