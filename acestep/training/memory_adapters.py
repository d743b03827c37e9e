"""What each kind of adapter costs in memory: its numbers, and what it keeps of a forward pass for the backward one.

Counted from the modules in ``acestep.adapters`` as autograd saves their tensors. Importing this does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from acestep.adapters.configs import AdapterConfig, DoRAConfig

FP32 = 4  # bytes of a number


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How the forward pass computes: ``size`` bytes a number; ``fused`` dropout has a kernel of its own."""

    size: int
    fused: bool

    @property
    def mixed(self) -> bool:
        """Autocast is on: fp32 weights are cast, and norms are computed in fp32."""
        return self.size < FP32

    def mask(self, size: int) -> int:
        """Bytes that dropout keeps for each number of ``size`` bytes: one, or a factor of the same type."""
        return 1 if self.fused else size


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer under an adapter.

    Attributes:
        name: original name, such as layers.0.self_attn.q_proj.
        rows: tokens of a batch that pass through it.
        kept: its input is kept for another reason.
        strided: the input lies in memory in another order than a product of its parts needs.
        passes: its input has a gradient.
    """

    name: str
    out: int
    into: int
    rows: int
    kept: bool
    strided: bool
    passes: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What an adapter costs on one layer.

    Attributes:
        weights: shapes of the trained matrices.
        zeros: shapes of those among them that start at zero.
        constants: fp32 numbers beside them that are not trained.
        saved: bytes kept from the forward to the backward pass.
        casts: bytes of copies of its weights in the type of the forward pass, kept as long.
        working: bytes taken for a moment in either pass beside what ``saved`` tells.
    """

    weights: tuple[tuple[int, ...], ...]
    zeros: tuple[tuple[int, ...], ...]
    saved: int
    casts: int
    constants: int = 0
    working: int = 0


def adapter_cost(kind: str, config: AdapterConfig, layer: Layer, arithmetic: Arithmetic) -> Cost:
    """The cost of an adapter of that kind on ``layer``."""
    return _COSTS[kind](config, layer, arithmetic)


def numbers(shapes: Iterable[tuple[int, ...]]) -> int:
    """How many numbers matrices of these shapes hold together."""
    return sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes)


def _lora(config: Any, layer: Layer, arithmetic: Arithmetic) -> Cost:
    """B @ A @ dropout(x). PEFT gives x in fp32; autocast, dropout and variants each make a copy of their own."""
    rank = _rank(config, layer.name)
    a, b = (rank, layer.into), (layer.out, rank)
    started = config.init == "pissa"  # where A and B began is kept as well, and taken off the product
    varied = started or isinstance(config, DoRAConfig)
    copied = arithmetic.mixed or config.dropout > 0 or not layer.kept or (varied and layer.strided)
    saved = layer.rows * arithmetic.size * (rank + (layer.into if copied else 0))
    if config.dropout and layer.passes:
        saved += layer.rows * layer.into * arithmetic.mask(FP32)
    half = arithmetic.size * numbers((a, b)) if arithmetic.mixed else 0
    return Cost(
        weights=(a, b),
        zeros=() if started else (b,),
        saved=saved,
        casts=half * (2 if started and layer.passes else 1),
        constants=numbers((a, b)) if started else 0,
        working=layer.rows * layer.into * 2 * FP32 if arithmetic.mixed else 0,  # the gradient of x in fp32, twice
    )


def _dora(config: Any, layer: Layer, arithmetic: Arithmetic) -> Cost:
    """m * (W + BA) / |W + BA|: LoRA, both products before they are scaled, and a whole fp32 weight to measure rows."""
    plain = _lora(config, layer, arithmetic)
    return Cost(
        weights=(*plain.weights, (layer.out,)),
        zeros=plain.zeros,
        saved=plain.saved + 2 * layer.rows * layer.out * arithmetic.size,
        casts=plain.casts,
        constants=plain.constants,
        working=plain.working + 2 * FP32 * layer.out * layer.into,
    )


def _lokr(config: Any, layer: Layer, arithmetic: Arithmetic) -> Cost:
    """kron(w1, w2) x, as w2 on each group of x, then w1 across the groups (LyCORIS 4.1.3, functional/lokr.py)."""
    (out_small, out_large), (in_small, in_large) = (factorize(n, config.factor) for n in (layer.out, layer.into))
    dim = config.linear_dim
    first, second = _factor(out_small, in_small, dim), _factor(out_large, in_large, dim)
    w1 = first if config.decompose_both else ((out_small, in_small),)
    zeros = second[-1:]
    per_row = in_small * (out_large + (dim if len(second) == 2 else 0)) + (
        0 if layer.kept and not layer.strided else layer.into
    )
    mask = arithmetic.mask(arithmetic.size)
    saved = layer.rows * (per_row * arithmetic.size + (layer.out * mask if config.dropout else 0))
    casts = arithmetic.size * numbers((*w1, *second)) if arithmetic.mixed else 0
    return Cost(weights=(*w1, *second), zeros=zeros, saved=saved, casts=casts)


def _factor(rows: int, columns: int, dim: int) -> tuple[tuple[int, int], ...]:
    """The shapes of a factor: whole, or the product of two thin matrices where that is smaller by half."""
    return ((rows, dim), (dim, columns)) if dim < max(rows, columns) / 2 else ((rows, columns),)


def _loha(config: Any, layer: Layer, arithmetic: Arithmetic) -> Cost:
    """((w1a w1b) * (w2a w2b)) x: the product of the four is a whole weight, kept to pass gradients to x."""
    rank = _rank(config, layer.name)
    halves = ((rank, layer.into), (layer.out, rank)) * 2
    mask = layer.out * arithmetic.mask(arithmetic.size) if config.dropout else 0
    per_row = (0 if layer.kept else layer.into * arithmetic.size) + mask
    return Cost(
        weights=halves,
        zeros=(halves[-1],),
        saved=layer.rows * per_row + (layer.out * layer.into * arithmetic.size if layer.passes else 0),
        casts=arithmetic.size * numbers(halves) if arithmetic.mixed else 0,
        working=4 * arithmetic.size * layer.out * layer.into,
    )


def _rank(config: Any, name: str) -> int:
    """The rank on a module: that of the longest key of ``ranks`` that its name ends with."""
    keys = [key for key in config.ranks if f".{name}".endswith(f".{key}")]
    return int(config.ranks[max(keys, key=len)] if keys else config.r)


def factorize(size: int, limit: int) -> tuple[int, int]:
    """``size`` as a product (smaller, larger) with the least sum, the smaller at most ``limit``; -1 sets no limit.

    As LyCORIS 4.1.3 does it (functional/general.py): a ``limit`` that divides ``size`` is taken as it is.
    """
    if limit > 0 and size % limit == 0:
        return min(limit, size // limit), max(limit, size // limit)
    most = size if limit < 0 else limit
    smaller = max(n for n in range(1, int(size**0.5) + 1) if size % n == 0 and (n <= most or n == 1))
    return smaller, size // smaller


_COSTS: dict[str, Callable[[Any, Layer, Arithmetic], Cost]] = {
    "lora": _lora,
    "dora": _dora,
    "lokr": _lokr,
    "loha": _loha,
}
