"""Formulas for the memory of optimizers: bytes of state, and of temporary buffers in a step.

Each is a fact of an entry in ``optimizers.OPTIMIZERS``. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

Shapes = list[tuple[int, ...]]
StateBytes = Callable[[Shapes], int]  # (shapes of all trained matrices)
StepBytes = Callable[[Shapes, str], int]  # (shapes of all trained matrices, device type)

_FP32 = 4
_MIN_SIZE_8BIT, _BLOCK = 4096, 256  # bitsandbytes 0.50: smaller tensors keep fp32 state; elements per scale
_QUANTIZATION_MAPS = 2 * 256 * _FP32
_ALIGNMENT = 16  # elements: parameters in a flat buffer start at multiples of 64 bytes, as matrix kernels prefer


def padded(num_values: int) -> int:
    """The number of elements that a parameter with ``num_values`` takes in a flat buffer."""
    return -(-num_values // _ALIGNMENT) * _ALIGNMENT


def _flat(weights: Shapes) -> int:
    """Bytes of a flat buffer of all matrices."""
    return _FP32 * sum(padded(prod(shape)) for shape in weights)


def adamw_state(weights: Shapes) -> int:
    """Two moments in fp32 and a step counter."""
    return 2 * _flat(weights) + _FP32


def adamw8bit_state(weights: Shapes) -> int:
    """Two moments in 8 bits with an fp32 scale for each block, and the quantization maps."""
    return _QUANTIZATION_MAPS + sum(
        2 * (prod(shape) + _FP32 * -(-prod(shape) // _BLOCK))
        if prod(shape) >= _MIN_SIZE_8BIT
        else 2 * _FP32 * prod(shape)
        for shape in weights
    )


def adafactor_state(weights: Shapes) -> int:
    """Second moments of rows and columns."""
    return sum(_FP32 * sum(shape) for shape in weights)


def prodigy_state(weights: Shapes) -> int:
    """Two moments, the sum of gradients, and the initial values (prodigyopt 1.1.2)."""
    return 4 * _flat(weights)


def adamw_step(weights: Shapes, _device: str) -> int:
    """The flat gradient; the fused kernel needs nothing else."""
    return _flat(weights)


def prodigy_step(weights: Shapes, _device: str) -> int:
    """The flat gradient and one temporary buffer of its size."""
    return 2 * _flat(weights)


def single_step(weights: Shapes, _device: str) -> int:
    """One matrix after the other."""
    return 2 * _FP32 * max(map(prod, weights))
