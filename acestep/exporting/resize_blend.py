"""Change the rank of an adapter, and blend several adapters into one LoRA."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.adapters.base import StoredAdapter
from acestep.core.errors import AdapterError
from acestep.exporting.delta import find_base, needs_base
from acestep.exporting.importers import read_any
from acestep.exporting.low_rank import convert_to_lora, lora_from_weights
from acestep.exporting.package import write_for
from acestep.exporting.source import ExportSource

WeightedSource = tuple[ExportSource, float]  # an adapter, and the weight of its delta in the sum


def resize_adapter(adapter: Path, rank: int, *, out: Path, checkpoint: str | Path | None = None) -> dict[str, Any]:
    """Write the best rank-``rank`` LoRA approximation of an adapter of any kind (truncated SVD).

    Args:
        adapter: adapter folder or file, or a run folder.
        checkpoint: the base model. Required for DoRA, whose weight delta depends on the base weights.

    Returns:
        The result of ``package.export_adapter``. ``residual`` is the relative approximation error.

    Raises:
        AdapterError, StorageError: see ``package.export_adapter``.
    """
    stored = read_any(adapter)
    return write_for(ExportSource(stored, _base(stored, checkpoint), rank=rank), "acestep", out)


def blend_adapters(
    adapters: Sequence[tuple[Path, float]],
    *,
    out: Path,
    rank: int | None = None,
    checkpoint: str | Path | None = None,
) -> dict[str, Any]:
    """Write one LoRA whose weight delta is the weighted sum of the deltas of ``adapters``.

    Without ``rank``, LoRA matrices are concatenated, which is exact (``combination_type="cat"`` of PEFT's
    ``add_weighted_adapter``). Adapters of other kinds are approximated by a LoRA of the smallest sufficient rank.

    Args:
        adapters: path and weight of each adapter.
        rank: rank of the result.
        checkpoint: the base model. Required for DoRA.

    Returns:
        The result of ``package.export_adapter``. ``residual`` is the relative error of the sum.

    Raises:
        AdapterError: fewer than two adapters, different model families, or see ``package.export_adapter``.
        StorageError: ``out`` contains other files, or cannot be written.
    """
    if len(adapters) < 2:
        raise AdapterError("a blend needs at least two adapters", hint="Add another adapter.")
    stored = [read_any(path) for path, _ in adapters]
    if len(families := {each.metadata.family for each in stored if each.metadata.family}) > 1:
        raise AdapterError(f"adapters of the families {' and '.join(sorted(families))} cannot be blended")
    weights = [weight for _, weight in adapters]
    pairs = zip(stored, weights, strict=True)
    sources = [(ExportSource(each, _base(each, checkpoint)), weight) for each, weight in pairs]
    if rank is None and all(each.kind == "lora" for each in stored):
        blend, residual = lora_from_weights(stored[0], _concatenated(sources)), 0.0
    else:
        blend, residual = _sum_as_lora(stored[0], sources, rank)
    blend = dataclasses.replace(blend, metadata=dataclasses.replace(blend.metadata, **_blend_metadata(stored, weights)))
    result = write_for(ExportSource(blend, None), "acestep", out)
    return {**result, "residual": max(residual, result["residual"]), "blended": len(stored)}


def _base(stored: StoredAdapter, checkpoint: str | Path | None) -> Any:
    return find_base(stored, checkpoint) if checkpoint is not None or needs_base(stored) else None


def _concatenated(sources: list[WeightedSource]) -> dict[str, Tensor]:
    """Concatenated factors [A1; A2] and [s1 B1, s2 B2], whose product is s1 B1 A1 + s2 B2 A2."""
    weights: dict[str, Tensor] = {}
    for name in _modules(sources):
        present = [(source.modules[name], weight) for source, weight in sources if name in source.modules]
        a = [parts["lora_A"] for parts, _ in present]
        b = [weight * parts["lora_B"] for parts, weight in present]
        weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"] = torch.cat(a), torch.cat(b, dim=1)
    return weights


def _sum_as_lora(first: StoredAdapter, sources: list[WeightedSource], rank: int | None) -> tuple[StoredAdapter, float]:
    def summed_delta(name: str) -> Tensor:
        deltas = [weight * source.weight_delta(name) for source, weight in sources if name in source.modules]
        return torch.stack(deltas).sum(dim=0)

    return convert_to_lora(first, {name: partial(summed_delta, name) for name in _modules(sources)}, rank)


def _modules(sources: list[WeightedSource]) -> list[str]:
    """Module names of all sources without duplicates, in the order of their first occurrence."""
    return list(dict.fromkeys(name for source, _ in sources for name in source.modules))


def _blend_metadata(stored: list[StoredAdapter], weights: list[float]) -> dict[str, Any]:
    """Metadata of a blend: all trigger words, and the adapters with their weights."""
    trigger_words = dict.fromkeys(each.metadata.trigger_word for each in stored if each.metadata.trigger_word)
    parts = [
        {"name": each.file.parent.name, "kind": each.kind, "base_model": each.metadata.base_model, "weight": weight}
        for each, weight in zip(stored, weights, strict=True)
    ]
    return {
        "trigger_word": ", ".join(trigger_words),
        "steps": 0,
        "epochs": 0,
        "dataset_hash": "",
        "facts": {"blended": parts},
    }
