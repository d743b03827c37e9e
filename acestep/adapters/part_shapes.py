"""Shapes of weight updates, computed from the shapes of their factors.

A small file can hold factors whose product does not fit into memory, so shapes are checked before anything is
multiplied. ``parts`` are the tensors of one module by part name, as in ``StoredAdapter.modules``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from acestep.core.errors import AdapterError
from acestep.core.untrusted import shorten

MAX_RANK = 8192  # PiSSA saves twice the rank of its settings
MAX_SIZE = 2**27  # values of a weight; the largest of the XL models has 0.4e8

Shape = tuple[int, ...]
_HINT = "Download or copy it again."


def update_shape(parts: Mapping[str, Tensor]) -> tuple[int, int]:
    """(out, in) of the weight that ``parts`` of any adapter kind update; ``in`` includes the kernel size.

    Raises:
        ValueError: a part is missing, or the shapes do not match.
    """
    if "lora_A" in parts or "lora_B" in parts:
        return _lora_shape(parts)
    if "hada_w1_a" in parts or "hada_w1_b" in parts:
        first, second = (_product(parts, f"hada_w{number}_a", f"hada_w{number}_b") for number in (1, 2))
        if first != second or _rank_of(parts, "hada_w1_b") != _rank_of(parts, "hada_w2_b"):
            raise ValueError("the two products have different shapes")
        return first
    w1, w2 = factor_shapes(parts)
    return w1[0] * w2[0], w1[1] * math.prod(w2[1:])


def factor_shapes(parts: Mapping[str, Tensor]) -> tuple[Shape, Shape]:
    """Shapes of the Kronecker factors w1 [a, b] and w2 [c, d] or [c, d, k] of a LoKr. Raises ValueError."""
    first = _shape(parts, "lokr_w1") if "lokr_w1" in parts else _product(parts, "lokr_w1_a", "lokr_w1_b")
    if "lokr_w2" in parts:
        second = _shape(parts, "lokr_w2")
    elif "lokr_t2" in parts:
        core, left, right = (_shape(parts, name) for name in ("lokr_t2", "lokr_w2_a", "lokr_w2_b"))
        if len(core) < 2 or len(left) != 2 or len(right) != 2 or core[:2] != (left[0], right[0]):
            raise ValueError("the parts of w2 do not match")
        second = (left[1], right[1], *core[2:])
    else:
        second = _product(parts, "lokr_w2_a", "lokr_w2_b")
    if len(first) != 2 or len(second) < 2:
        raise ValueError("a factor is not a matrix")
    return first, second


def check_parts(file: Path, module: str, parts: Mapping[str, Tensor], *, required: Sequence[str] = ()) -> None:
    """Check the shapes of one module before its update is computed. ``required`` parts must exist.

    Raises:
        AdapterError: a part is missing, shapes do not match, or they give an update that is larger than any weight of
            ACE-Step 1.5.
    """
    try:
        if not parts.keys() >= set(required):
            raise ValueError("a part is missing")
        shape = update_shape(parts)
    except ValueError:
        raise AdapterError(
            f"{file}: matrices of {shorten(module)} are missing or their shapes do not match", hint=_HINT
        ) from None
    if math.prod(shape) > MAX_SIZE:
        raise AdapterError(
            f"{file}: the matrices of {shorten(module)} give an update of {shape[0]:,} x {shape[1]:,} values, "
            "more than any weight of ACE-Step 1.5 has",
            hint=_HINT,
        )
    if (rank := max((_rank_of(parts, name) for name in parts), default=0)) > MAX_RANK:
        raise AdapterError(f"{file}: {shorten(module)} has rank {rank:,}, the limit is {MAX_RANK:,}", hint=_HINT)


def _lora_shape(parts: Mapping[str, Tensor]) -> tuple[int, int]:
    if all(name in parts and parts[name].dim() == 3 for name in ("lora_A", "lora_B")):
        (*first, kernel), second = _shape(parts, "lora_B"), _shape(parts, "lora_A")  # of a convolution
        if kernel != 1 or first[1] != second[0] or 0 in (*first, *second):
            raise ValueError("lora_B and lora_A do not match")
        return first[0], math.prod(second[1:])
    shape = _product(parts, "lora_B", "lora_A")
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is not None and tuple(magnitude.shape) != shape[:1]:
        raise ValueError("the magnitude does not match")
    return shape


def _product(parts: Mapping[str, Tensor], left: str, right: str) -> tuple[int, int]:
    """Shape of the matrix product of two parts."""
    (*first, rank), second = _shape(parts, left), _shape(parts, right)
    if len(first) != 1 or len(second) != 2 or rank != second[0] or 0 in (*first, *second):
        raise ValueError(f"{left} and {right} do not match")
    return first[0], second[1]


def _shape(parts: Mapping[str, Tensor], name: str) -> Shape:
    if name not in parts or not parts[name].shape:
        raise ValueError(f"{name} is missing")
    return tuple(parts[name].shape)


def _rank_of(parts: Mapping[str, Tensor], name: str) -> int:
    """The rank that a part states; 0 for parts that state none."""
    is_right = name in ("lora_A", "hada_w1_b", "hada_w2_b", "lokr_w1_b", "lokr_w2_b", "lokr_t2")
    return parts[name].shape[0] if is_right else 0
