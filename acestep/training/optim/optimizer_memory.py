"""Formulas for the memory of optimizers: bytes of state, and of temporary buffers in a step.

Each is a fact of an entry in ``optimizers.OPTIMIZERS``. Importing this module does not import torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod

Shapes = list[tuple[int, ...]]
StateBytes = Callable[[Shapes, Shapes], int]  # (shapes of all trained matrices, those of them that start at zero)
StepBytes = Callable[[Shapes, str], int]  # (shapes of all trained matrices, device type)

_FP32 = 4
_MIN_SIZE_8BIT, _BLOCK = 4096, 256  # bitsandbytes 0.50: smaller tensors keep fp32 state; elements per scale
_QUANTIZATION_MAPS = 2 * 256 * _FP32


def adamw_state(weights: Shapes, _zeros: Shapes) -> int:
    """Two moments in fp32 and a step counter for each matrix."""
    return sum(2 * _FP32 * prod(shape) + _FP32 for shape in weights)


def adamw8bit_state(weights: Shapes, _zeros: Shapes) -> int:
    """Two moments in 8 bits with an fp32 scale for each block, and the quantization maps."""
    return _QUANTIZATION_MAPS + sum(
        2 * (prod(shape) + _FP32 * -(-prod(shape) // _BLOCK))
        if prod(shape) >= _MIN_SIZE_8BIT
        else 2 * _FP32 * prod(shape)
        for shape in weights
    )


def adafactor_state(weights: Shapes, _zeros: Shapes) -> int:
    """Second moments of rows and columns."""
    return sum(_FP32 * sum(shape) for shape in weights)


def prodigy_state(weights: Shapes, zeros: Shapes) -> int:
    """Two moments, the sum of gradients, and the initial value unless it is zero (prodigyopt 1.1.2)."""
    nonzero = Counter(weights) - Counter(zeros)
    return sum(3 * _FP32 * prod(shape) for shape in weights) + sum(
        _FP32 * prod(shape) * count for shape, count in nonzero.items()
    )


def foreach_step(weights: Shapes, device: str) -> int:
    """PyTorch's AdamW updates all matrices together on accelerators, and one after the other on the CPU."""
    return _FP32 * sum(map(prod, weights)) if device != "cpu" else single_step(weights, device)


def single_step(weights: Shapes, _device: str) -> int:
    """One matrix after the other."""
    return 2 * _FP32 * max(map(prod, weights))
