"""Adapters of other programs, in any of their forms, as folders of ours."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from acestep.adapters.base import StoredAdapter
from acestep.adapters.card import AdapterCard
from acestep.adapters.configs import LoHaConfig, LoKRConfig, LoRAConfig
from acestep.adapters.files import read_adapter
from acestep.core.errors import AdapterError
from acestep.exporting import rules
from acestep.exporting.delta import DIFF, BaseWeights, delta, kind_of
from acestep.exporting.lokr_settings import Modules, lokr_settings
from acestep.exporting.lowrank import as_lora, lora_of
from acestep.exporting.package import write_for
from acestep.exporting.source import CONVOLUTIONS, Source, read_tensors
from acestep.models.checkpoint import find_checkpoint

_AMBIGUOUS = "base_model.model."  # in this form the scale stands beside the file, not in it
_THIN = (".lora_", ".hada_", ".lokr_w1_b", ".lokr_w2_b")  # parts that have a rank, and so a scale


def import_adapter(
    adapter: Path,
    *,
    out: Path,
    checkpoint: str | Path | None = None,
    rank: int | None = None,
    trigger_word: str = "",
) -> dict[str, Any]:
    """Write an adapter of the existing trainer, the ACE-Step app, Side-Step, ComfyUI or diffusers as a folder of ours.

    Args:
        checkpoint: the model it was made for, if its file does not tell; it is checked that it fits.
        rank: make it a LoRA of this rank. Whole additions become a LoRA in any case.
        trigger_word: the word that calls it, if the file does not tell.

    Returns:
        As ``package.export_adapter``.

    Raises:
        AdapterError: in no form that is known, or without its scale.
        ModelMismatch: it was made for another model than ``checkpoint``.
        StorageError: ``out`` holds something else, or cannot be written.
    """
    stored = read_any(adapter)
    base = BaseWeights(find_checkpoint(checkpoint)) if checkpoint is not None else None
    card = stored.card
    if base:
        base.require_fit(stored)
        model = base.checkpoint
        card = dataclasses.replace(card, base_model=model.name, family=model.family, variant=model.variant)
    if trigger_word:
        card = dataclasses.replace(card, trigger_word=trigger_word, tag_position=card.tag_position or "prepend")
    return write_for(Source(dataclasses.replace(stored, card=card), base, rank=rank), "acestep", out)


def read_any(path: Path) -> StoredAdapter:
    """An adapter of ours or of another program. Raises AdapterError: that of ``read_adapter`` if nothing else fits."""
    try:
        return read_adapter(path)
    except AdapterError as refusal:
        found = _read_foreign(path)
        if found is None:
            raise refusal from None
        return found


def _read_foreign(path: Path) -> StoredAdapter | None:
    """None where it is no single safetensors file, or one whose scale cannot be known."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if len(files) != 1:
        return None
    try:
        tensors, metadata = read_tensors(files[0])
    except (SafetensorError, OSError):
        return None
    thin = any(part in key for key in tensors for part in _THIN)
    alphas = any(key.endswith(".alpha") for key in tensors)
    if thin and not alphas and all(key.startswith(_AMBIGUOUS) for key in tensors):
        return None
    heard = rules.comfyui(tensors)
    if heard.left_out:
        heard = rules.diffusers(tensors)
    if heard.left_out or not heard.modules:
        return None
    modules = {name: {part: value.float() for part, value in parts.items()} for name, parts in heard.modules.items()}
    dtype = next((value.dtype for value in tensors.values() if value.dim() > 1), next(iter(tensors.values())).dtype)
    empty = StoredAdapter(files[0], "", LoRAConfig(), {}, AdapterCard.from_metadata(metadata), dtype)
    return _as_kind(empty, modules)


def _as_kind(empty: StoredAdapter, modules: Modules) -> StoredAdapter:
    """The modules as an adapter of their kind; what is mixed, or of whole additions, as the nearest LoRA."""
    kinds = {DIFF if DIFF in parts else kind_of(parts) for parts in modules.values()}
    kind = kinds.pop() if len(kinds) == 1 else DIFF
    config: LoHaConfig | LoKRConfig | None = None
    if kind == "lora":
        weights = {f"{name}.{part}.weight": value for name, parts in modules.items() for part, value in parts.items()}
        return as_lora(dataclasses.replace(empty, kind="lora"), weights)
    if kind == "loha":
        rank = max(parts["hada_w1_b"].shape[0] for parts in modules.values())
        config = LoHaConfig(r=rank, alpha=rank)
    elif kind == "lokr":
        config = lokr_settings(modules)
    if config is not None:
        weights = {f"{name}.{part}": value for name, parts in modules.items() for part, value in parts.items()}
        return dataclasses.replace(empty, kind=kind, config=config, weights=weights)
    wanted = {name: parts for name, parts in modules.items() if name not in CONVOLUTIONS}
    return lora_of(empty, {name: partial(delta, parts) for name, parts in wanted.items()})[0]
