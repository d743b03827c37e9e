"""What each optimizer keeps for the trained numbers, and what a step of it takes for a moment.

Importing this does not import torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod

Shapes = list[tuple[int, ...]]

_FP32 = 4
_SMALL, _BLOCK = 4096, 256  # bitsandbytes 0.50: fewer numbers stay in 32 bits; numbers that share a scale
_TABLES = 2 * 256 * _FP32


def optimizer_bytes(name: str, weights: Shapes, zeros: Shapes) -> int:
    """The state of optimizer ``name`` over matrices of these shapes, of which ``zeros`` start at zero."""
    return _STATES[name](weights, zeros)


def step_bytes(name: str, weights: Shapes, device: str) -> int:
    """Taken for a moment: on graphics cards AdamW of PyTorch works on all matrices at once, others on one by one."""
    if name == "adamw" and device != "cpu":
        return _FP32 * sum(map(prod, weights))
    return 2 * _FP32 * max(map(prod, weights))


def _adamw(weights: Shapes, _zeros: Shapes) -> int:
    """Two moments, and the count of steps."""
    return sum(2 * _FP32 * prod(shape) + _FP32 for shape in weights)


def _adamw8bit(weights: Shapes, _zeros: Shapes) -> int:
    """Two moments of a byte with a scale for each block, and the tables of what the bytes stand for."""
    return _TABLES + sum(
        2 * (prod(shape) + _FP32 * -(-prod(shape) // _BLOCK)) if prod(shape) >= _SMALL else 2 * _FP32 * prod(shape)
        for shape in weights
    )


def _adafactor(weights: Shapes, _zeros: Shapes) -> int:
    """Second moments of the rows and of the columns alone."""
    return sum(_FP32 * sum(shape) for shape in weights)


def _prodigy(weights: Shapes, zeros: Shapes) -> int:
    """Two moments, the sum of gradients, and the beginning where it is not zero (prodigyopt 1.1.2)."""
    begun = Counter(weights) - Counter(zeros)
    return sum(3 * _FP32 * prod(shape) for shape in weights) + sum(
        _FP32 * prod(shape) * count for shape, count in begun.items()
    )


_STATES: dict[str, Callable[[Shapes, Shapes], int]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "prodigy": _prodigy,
}
