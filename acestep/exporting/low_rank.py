"""Any adapter as a LoRA: the nearest one of a rank, with the part of the addition that is lost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from acestep.adapters.base import StoredAdapter, fork_cpu_rng
from acestep.adapters.configs import LoRAConfig

MAX_RANK = 128
"""The largest rank chosen where none is asked for."""
EXACT = 1e-5
"""A share of the addition that nobody misses: a LoRA this near counts as the adapter itself."""

_WHOLE = 512  # up to this size all directions are computed
_OVERSAMPLED, _ROUNDS = 16, 4  # more directions and rounds than the rank needs, for accuracy


def low_rank_factors(weight_delta: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """lora_B [out, r] and lora_A [r, in] whose product is nearest to ``addition`` [out, in].

    Without ``rank`` it is the smallest that loses no more than ``EXACT``, up to ``MAX_RANK``. By singular values;
    of large matrices only the strongest, by random projection (https://arxiv.org/abs/0909.4061).
    """
    smallest = min(weight_delta.shape)
    wanted = min(rank or MAX_RANK, smallest)
    if smallest <= _WHOLE:
        left, values, right = torch.linalg.svd(weight_delta, full_matrices=False)
    else:
        with fork_cpu_rng(0):
            q = min(wanted + _OVERSAMPLED, smallest)
            left, values, right = torch.svd_lowrank(weight_delta, q=q, niter=_ROUNDS)
        right = right.T
    if rank is None:
        wanted = min(wanted, _sufficient(values, float(weight_delta.norm())))
    root = values[:wanted].sqrt()
    return left[:, :wanted] * root, root[:, None] * right[:wanted]


def _sufficient(values: Tensor, norm: float) -> int:
    """How many of the singular ``values`` leave no more than ``EXACT`` of ``norm``; at least one."""
    energy = values.double().square().cumsum(0)
    return 1 + int((energy < norm**2 * (1 - EXACT**2)).sum())


def convert_to_lora(
    adapter: StoredAdapter, weight_deltas: Mapping[str, Callable[[], Tensor]], rank: int | None = None
) -> tuple[StoredAdapter, float]:
    """A LoRA that adds what ``additions`` say, and the share of them that is lost, |wanted - got| / |wanted|.

    Args:
        adapter: whose card and number type it takes over.
        additions: module -> what computes the [out, in] to add to it; one is in memory at a time.
        rank: of every module, or the smallest that suffices for each.
    """
    weights: dict[str, Tensor] = {}
    lost = whole = 0.0
    for name, compute in weight_deltas.items():
        wanted = compute()
        b, a = low_rank_factors(wanted, rank)
        weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"] = a.contiguous(), b.contiguous()
        lost += float((wanted - b @ a).norm()) ** 2
        whole += float(wanted.norm()) ** 2
    return lora_from_weights(adapter, weights), math.sqrt(lost / whole) if whole else 0.0


def lora_from_weights(adapter: StoredAdapter, weights: dict[str, Tensor]) -> StoredAdapter:
    """``adapter``'s card on LoRA ``weights``, which count as trained with alpha equal to the rank."""
    rank = max(value.shape[0] for name, value in weights.items() if ".lora_A." in name)
    card = adapter.card
    if adapter.kind != "lora":
        facts = {**card.facts, "converted_from": adapter.kind, "trained_config": card.config}
        card = dataclasses.replace(card, facts=facts)
    config = LoRAConfig(r=rank, alpha=rank, dropout=0.0)
    return StoredAdapter(adapter.file, "lora", config, weights, card, adapter.dtype)
