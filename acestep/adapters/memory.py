"""Formulas for the memory of adapters: parameters, and activations saved for the backward pass.

Each cost function is a fact of an entry in ``configs.ADAPTERS`` and counts the tensors that autograd saves in the
modules of that kind. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

FP32 = 4  # bytes per element


@dataclass(frozen=True, slots=True)
class ComputeDtype:
    """Dtype of the forward pass.

    Attributes:
        size: bytes per element.
        hidden: the same for the hidden states between the layers, which are fp32 where the others are fp16.
        fused: dropout has a fused kernel.
    """

    size: int
    hidden: int
    fused: bool

    @property
    def mixed(self) -> bool:
        """Autocast is on: fp32 weights are cast, and norms are computed in fp32."""
        return self.size < FP32

    def mask(self, size: int) -> int:
        """Bytes of the dropout mask per element of ``size`` bytes: one, or a factor of the same dtype."""
        return 1 if self.fused else size


@dataclass(frozen=True, slots=True)
class Layer:
    """A linear layer with an adapter.

    Attributes:
        name: original name, such as layers.0.self_attn.q_proj.
        out, into: output and input features.
        rows: tokens of a batch that pass through it.
        kept: autograd saves its input for another operation anyway.
        shares: it is evaluated together with an earlier layer, and uses the dropout mask of that one.
        passes: its input has a gradient.
    """

    name: str
    out: int
    into: int
    rows: int
    kept: bool
    shares: bool
    passes: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """Memory of an adapter on one layer.

    Attributes:
        weights: shapes of the trained matrices.
        saved: bytes of activations saved for the backward pass.
        casts: bytes of copies of the weights in the dtype of the forward pass, kept as long as ``saved``.
        constants: fp32 elements that are not trained.
        working: bytes of temporary buffers in either pass.
    """

    weights: tuple[tuple[int, ...], ...]
    saved: int
    casts: int
    constants: int = 0
    working: int = 0


MemoryCost = Callable[[Any, Layer, ComputeDtype], Cost]  # (adapter config, layer, compute dtype)


def numel(shapes: Iterable[tuple[int, ...]]) -> int:
    """Total number of elements of matrices of these shapes."""
    return sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in shapes)


def lora_cost(config: Any, layer: Layer, compute: ComputeDtype) -> Cost:
    """B @ A @ dropout(x), where layers that are evaluated together share dropout(x)."""
    rank = _rank(config, layer.name)
    a, b = (rank, layer.into), (layer.out, rank)
    started = config.init == "pissa"  # the initial A and B are kept as well and subtracted
    saved = layer.rows * compute.size * rank
    if not layer.shares and (config.dropout or not layer.kept):
        saved += layer.rows * layer.into * compute.size
    if not layer.shares and config.dropout and layer.passes:
        saved += layer.rows * layer.into * compute.mask(compute.size)
    half = compute.size * numel((a, b)) if compute.mixed else 0
    return Cost(
        weights=(a, b),
        saved=saved,
        casts=half * (2 if started and layer.passes else 1),
        constants=numel((a, b)) if started else 0,
        working=layer.rows * layer.into * compute.size,  # the gradient of dropout(x)
    )


def dora_cost(config: Any, layer: Layer, compute: ComputeDtype) -> Cost:
    """m * (W + BA) / |W + BA|: LoRA, the sum of both products, and a full fp32 weight for the norms of its rows."""
    plain = lora_cost(config, layer, compute)
    return Cost(
        weights=(*plain.weights, (layer.out,)),
        saved=plain.saved + layer.rows * layer.out * compute.size,
        casts=plain.casts,
        constants=plain.constants,
        working=plain.working + 2 * FP32 * layer.out * layer.into,
    )


def lokr_cost(config: Any, layer: Layer, compute: ComputeDtype) -> Cost:
    """kron(w1, w2) x, as w2 on each group of x, then w1 across the groups (LyCORIS 4.1.3, functional/lokr.py).

    Weight decomposition adds what it adds to LoRA: both products, and a full fp32 weight for the norms of its rows.
    """
    (out_small, out_large), (in_small, in_large) = (factorize(n, config.factor) for n in (layer.out, layer.into))
    if config.unbalanced_factorization:
        out_small, out_large = out_large, out_small
    dim = config.linear_dim
    first, second = _factor(out_small, in_small, dim), _factor(out_large, in_large, dim)
    w1 = first if config.decompose_both else ((out_small, in_small),)
    per_row = in_small * (out_large + (dim if len(second) == 2 else 0)) + (0 if layer.kept else layer.into)
    mask = compute.mask(compute.size)
    saved = layer.rows * (per_row * compute.size + (layer.out * mask if config.dropout else 0))
    casts = compute.size * numel((*w1, *second)) if compute.mixed else 0
    if not config.weight_decompose:
        return Cost(weights=(*w1, *second), saved=saved, casts=casts)
    return Cost(
        weights=(*w1, *second, (layer.out,)),
        saved=saved + 2 * layer.rows * layer.out * compute.size,
        casts=casts,
        working=2 * FP32 * layer.out * layer.into,
    )


def _factor(rows: int, columns: int, dim: int) -> tuple[tuple[int, int], ...]:
    """Shapes of a factor: one full matrix, or two low-rank ones if the dim is below half of the larger side."""
    return ((rows, dim), (dim, columns)) if dim < max(rows, columns) / 2 else ((rows, columns),)


def loha_cost(config: Any, layer: Layer, compute: ComputeDtype) -> Cost:
    """((w1a w1b) * (w2a w2b)) x: the update is a full matrix, saved to compute the gradient of x."""
    rank = _rank(config, layer.name)
    halves = ((rank, layer.into), (layer.out, rank)) * 2
    mask = layer.out * compute.mask(compute.size) if config.dropout else 0
    per_row = (0 if layer.kept else layer.into * compute.size) + mask
    return Cost(
        weights=halves,
        saved=layer.rows * per_row + (layer.out * layer.into * compute.size if layer.passes else 0),
        casts=compute.size * numel(halves) if compute.mixed else 0,
        working=4 * compute.size * layer.out * layer.into,
    )


def _rank(config: Any, name: str) -> int:
    """The rank of a module: from the longest key of ``ranks`` that its name ends with, else ``r``."""
    keys = [key for key in config.ranks if f".{name}".endswith(f".{key}")]
    return int(config.ranks[max(keys, key=len)] if keys else config.r)


def factorize(size: int, limit: int) -> tuple[int, int]:
    """``size`` as a product (smaller, larger) with the least sum, the smaller at most ``limit``; -1 sets no limit.

    Equals ``factorization`` of LyCORIS 4.1.3 (functional/general.py): a ``limit`` that divides ``size`` is used as is.
    """
    if limit > 0 and size % limit == 0:
        return min(limit, size // limit), max(limit, size // limit)
    most = size if limit < 0 else limit
    smaller = max(n for n in range(1, int(size**0.5) + 1) if size % n == 0 and (n <= most or n == 1))
    return smaller, size // smaller
