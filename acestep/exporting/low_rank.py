"""Approximate an adapter of any kind by a LoRA (truncated SVD), and report the relative error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from acestep.adapters.base import StoredAdapter, fork_cpu_rng
from acestep.adapters.configs import LoRAConfig
from acestep.adapters.targets import CONVOLUTIONS, KERNEL_SIZE

MAX_RANK = 256
"""Largest rank that is chosen automatically."""
EXACT = 1e-5
"""Relative error below which a LoRA approximation counts as exact."""

_FULL_SVD_SIZE = 512  # up to this size the full SVD is computed
_OVERSAMPLING, _POWER_ITERATIONS = 16, 4  # accuracy of the randomized SVD


def low_rank_factors(weight_delta: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """The best rank-r approximation of a weight delta by its singular value decomposition.

    Large matrices use the randomized SVD (Halko et al. 2009, https://arxiv.org/abs/0909.4061).

    Args:
        weight_delta: matrix [out, in].
        rank: rank r. Default: the smallest with a relative error of at most ``EXACT``, up to ``MAX_RANK``.

    Returns:
        ``lora_B`` [out, r] and ``lora_A`` [r, in].
    """
    smallest = min(weight_delta.shape)
    wanted, missing = min(rank or MAX_RANK, smallest), 0.0
    if smallest <= _FULL_SVD_SIZE:
        left, values, right = torch.linalg.svd(weight_delta, full_matrices=False)
    else:
        with fork_cpu_rng(0):
            q = min(wanted + _OVERSAMPLING, smallest)
            left, values, right = torch.svd_lowrank(weight_delta, q=q, niter=_POWER_ITERATIONS)
        right = right.T
        missing = float((weight_delta - left @ (left.T @ weight_delta)).norm()) ** 2
    if rank is None:
        wanted = min(wanted, _sufficient(values, missing))
    root = values[:wanted].sqrt()
    return left[:, :wanted] * root, root[:, None] * right[:wanted]


def _sufficient(values: Tensor, missing: float) -> int:
    """Number of singular ``values`` for a relative error of at most ``EXACT``; at least 1.

    The squared error is the sum of the squares of the values that are left out. It is summed directly: as the
    difference of two norms it would be lost in rounding. ``missing`` is the sum for values that were not computed.
    """
    squares = values.double().square()
    left_out = squares.flip(0).cumsum(0).flip(0) + max(0.0, missing)  # without this value and the following ones
    return max(1, int((left_out > EXACT**2 * left_out[0]).sum()))


def convert_to_lora(
    adapter: StoredAdapter, weight_deltas: Mapping[str, Callable[[], Tensor]], rank: int | None = None
) -> tuple[StoredAdapter, float]:
    """Approximate weight deltas by a LoRA.

    Args:
        adapter: source of the metadata and the dtype.
        weight_deltas: module name -> function that computes its delta [out, in]. One delta is in memory at a time.
        rank: rank of every module. Default: the smallest sufficient rank of each module.

    Returns:
        The LoRA, and its relative error |delta - B A| / |delta| over all modules.
    """
    weights: dict[str, Tensor] = {}
    squared_error = squared_norm = 0.0
    for name, compute in weight_deltas.items():
        exact = compute()
        b, a = low_rank_factors(exact, rank)
        weights |= lora_weights(name, a, b)
        squared_error += float((exact - b @ a).norm()) ** 2
        squared_norm += float(exact.norm()) ** 2
    return lora_from_weights(adapter, weights), math.sqrt(squared_error / squared_norm) if squared_norm else 0.0


def lora_weights(module: str, a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """Factors [r, in] and [out, r] as weights of ``module``; for a convolution [r, in, kernel] and [out, r, 1]."""
    if module in CONVOLUTIONS:
        a, b = a.reshape(len(a), -1, KERNEL_SIZE), b[:, :, None]
    return {f"{module}.lora_A.weight": a.contiguous(), f"{module}.lora_B.weight": b.contiguous()}


def lora_from_weights(adapter: StoredAdapter, weights: dict[str, Tensor]) -> StoredAdapter:
    """A LoRA of ``weights`` (alpha = rank) with the metadata of ``adapter``, in which the original kind is recorded."""
    rank = max(value.shape[0] for name, value in weights.items() if ".lora_A." in name)
    meta = adapter.metadata
    if adapter.kind != "lora":
        facts = {**meta.facts, "converted_from": adapter.kind, "trained_config": meta.config}
        meta = dataclasses.replace(meta, facts=facts)
    config = LoRAConfig(r=rank, alpha=rank, dropout=0.0)
    return StoredAdapter(adapter.file, "lora", config, weights, meta, adapter.dtype)
