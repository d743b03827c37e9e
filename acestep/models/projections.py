"""Linear layers that have the same input."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


def project(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """The outputs of ``layers`` for the input ``x``.

    Layers with an adapter may have a function ``project_jointly(layers, x)``, which computes what they share once. It
    is used if all of them have it.
    """
    if all(hasattr(layer, "project_jointly") for layer in layers):
        return cast(list[Tensor], layers[0].project_jointly(layers, x))  # type: ignore[operator]
    return [layer(x) for layer in layers]
