"""Import adapters of other programs."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from acestep.adapters.base import StoredAdapter
from acestep.adapters.configs import LoHaConfig, LoKRConfig, LoRAConfig
from acestep.adapters.files import read_adapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.other_formats import DIFF, has_unknown_scale
from acestep.adapters.part_shapes import check_parts
from acestep.adapters.weights_file import read_tensors, require_alpha, require_finite_values
from acestep.core.errors import AdapterError
from acestep.core.untrusted import is_file, is_folder
from acestep.exporting.delta import BaseWeights, delta, detect_kind
from acestep.exporting.lokr_config import Modules, find_lokr_config
from acestep.exporting.low_rank import convert_to_lora, lora_from_weights
from acestep.exporting.package import write_for
from acestep.exporting.source import ExportSource
from acestep.exporting.targets import comfyui, diffusers
from acestep.models.checkpoint import find_checkpoint


def import_adapter(
    adapter: Path,
    *,
    out: Path,
    checkpoint: str | Path | None = None,
    rank: int | None = None,
    trigger_word: str = "",
) -> dict[str, Any]:
    """Convert an adapter of another program: ace-lora-trainer, the ACE-Step app, Side-Step, ComfyUI or diffusers.

    Args:
        checkpoint: the base model, if the file does not name it. Shapes are verified.
        rank: convert to a LoRA of this rank. Full weight differences are always converted to a LoRA.
        trigger_word: the trigger word, if the file does not name it.

    Returns:
        The result of ``package.export_adapter``.

    Raises:
        AdapterError: unknown format, or the scale is unknown.
        ModelMismatch: the adapter was trained on another base model than ``checkpoint``.
        StorageError: ``out`` contains other files, or cannot be written.
    """
    stored = read_any(adapter)
    base = BaseWeights(find_checkpoint(checkpoint)) if checkpoint is not None else None
    meta = stored.metadata
    if base:
        base.check_compatible(stored)
        model = base.checkpoint
        meta = dataclasses.replace(meta, base_model=model.name, family=model.family, variant=model.variant)
    if trigger_word:
        meta = dataclasses.replace(meta, trigger_word=trigger_word, tag_position=meta.tag_position or "prepend")
    return write_for(ExportSource(dataclasses.replace(stored, metadata=meta), base, rank=rank), "acestep", out)


def read_any(path: Path) -> StoredAdapter:
    """Read an adapter of this or another program. Raises AdapterError."""
    try:
        return read_adapter(path)
    except AdapterError as error:
        found = _read_other(path)
        if found is None:
            raise error from None
        return found


def _read_other(path: Path) -> StoredAdapter | None:
    """None if ``path`` is not a single safetensors file, or its scale is unknown."""
    files = [path] if is_file(path) else sorted(path.glob("*.safetensors")) if is_folder(path) else []
    if len(files) != 1:
        return None
    try:
        tensors, metadata = read_tensors(files[0])
    except AdapterError:
        return None
    require_finite_values(files[0], tensors)
    for key, value in tensors.items():
        if key.endswith(".alpha"):
            require_alpha(files[0], key, value)
    if has_unknown_scale(tensors):
        return None
    loaded = comfyui.load(tensors)
    if loaded.ignored_keys:
        loaded = diffusers.load(tensors)
    if loaded.ignored_keys or not loaded.modules:
        return None
    for name, parts in loaded.modules.items():
        if DIFF not in parts:
            check_parts(files[0], name, parts)
    modules = {name: {part: value.float() for part, value in parts.items()} for name, parts in loaded.modules.items()}
    dtype = next((value.dtype for value in tensors.values() if value.dim() > 1), next(iter(tensors.values())).dtype)
    empty = StoredAdapter(files[0], "", LoRAConfig(), {}, AdapterMetadata.from_file_metadata(metadata), dtype)
    return _as_kind(empty, modules)


def _as_kind(empty: StoredAdapter, modules: Modules) -> StoredAdapter:
    """An adapter of the modules' kind. Mixed kinds and full weight differences become the nearest LoRA."""
    kinds = {DIFF if DIFF in parts else detect_kind(parts) for parts in modules.values()}
    kind = kinds.pop() if len(kinds) == 1 else DIFF
    config: LoHaConfig | LoKRConfig | None = None
    if kind == "lora":
        weights = {f"{name}.{part}.weight": value for name, parts in modules.items() for part, value in parts.items()}
        return lora_from_weights(dataclasses.replace(empty, kind="lora"), weights)
    if kind == "loha":
        rank = max(parts["hada_w1_b"].shape[0] for parts in modules.values())
        config = LoHaConfig(r=rank, alpha=rank)
    elif kind == "lokr":
        config = find_lokr_config(modules)
    if config is not None:
        weights = {f"{name}.{part}": value for name, parts in modules.items() for part, value in parts.items()}
        return dataclasses.replace(empty, kind=kind, config=config, weights=weights)
    return convert_to_lora(empty, {name: partial(delta, parts) for name, parts in modules.items()})[0]
