"""Export adapters to other programs: write, read back, compare, and then move into place."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import torch

from acestep.adapters.base import StoredAdapter, require_finite
from acestep.adapters.files import read_adapter
from acestep.adapters.lokr_file import CONFIG as LOKR_CONFIG
from acestep.adapters.lora_file import CONFIG as LORA_CONFIG
from acestep.core.errors import AceStepError, AdapterError, CheckpointError, StorageError
from acestep.core.files import replace_folder, write_text
from acestep.core.untrusted import exists, is_folder, parse_json
from acestep.exporting.check import OutputComparison, compare, metrics_as_json, require_learned
from acestep.exporting.delta import find_base, needs_base
from acestep.exporting.load_result import WrittenAdapter
from acestep.exporting.low_rank import EXACT
from acestep.exporting.model_card import README, model_card, sample_prompt
from acestep.exporting.source import ExportSource
from acestep.exporting.strength import strength_effect
from acestep.exporting.targets import ALL, TARGETS
from acestep.models.safetensors_header import read_safetensors_header, read_safetensors_metadata

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_USUAL_FILE = re.compile(r"adapter_model|lo\w\w_weights")
_RUN_SUBFOLDERS = re.compile(r"adapter|final|best|checkpoints|epoch_\d+.*")


def export_adapter(
    adapter: Path,
    to: str = "acestep",
    *,
    out: Path,
    checkpoint: str | Path | None = None,
    rank: int | None = None,
    strength: float = 1.0,
    dtype: Literal["bf16", "fp32"] | None = None,
    prompt: str = "",
    license: str = "",
) -> dict[str, Any]:
    """Write ``adapter`` for the program ``to`` and verify the result with that program's loading rules.

    Args:
        adapter: adapter folder or file, or a run folder: its final adapter, else the best, else the newest
            checkpoint.
        to: a name in ``TARGETS``, or "all" for every target, each in its own folder below ``out``.
        out: folder to write. An existing folder is replaced only if this program wrote it.
        checkpoint: base model. If given, the decoder outputs are compared too. DoRA needs a base model for ComfyUI;
            without ``checkpoint`` it is found by the name in the adapter's metadata.
        rank: convert to a LoRA of this rank. Default: convert only if the program requires it.
        strength: scale that is applied to the weights.
        dtype: dtype of the weights. Default: that of ``adapter``.
        prompt, license: for the model card and the metadata.

    Returns:
        ``adapter`` (path to load in the program), ``source``, ``kind``, ``form``, ``modules``, ``delta_norm`` (smallest
        and largest norm of a weight delta), ``residual`` (relative error), ``output_error`` if ``checkpoint`` is
        given, ``trigger_word``, ``notes``. For "all": these by target under ``targets``, and the reasons of failed
        targets under ``refused``.

    Raises:
        AdapterError: no readable adapter, a module adds nothing, or the program cannot load it.
        ModelMismatch: the adapter was trained on another base model than ``checkpoint``.
        UnknownName: no such target.
        StorageError: ``out`` contains other files, or cannot be written.
    """
    if to != ALL:
        TARGETS[to]  # raises UnknownName before anything is read
    if require_finite(strength) == 0.0:
        raise AdapterError("strength 0 removes the adapter", hint="Use a number such as 1.0.")
    stored = _with_facts(read_adapter(adapter), prompt, license, dtype)
    base = find_base(stored, checkpoint) if checkpoint is not None or needs_base(stored) else None
    source = ExportSource(stored, base, rank=rank, strength=strength)
    require_learned(source)
    comparison = OutputComparison(source, base) if base and checkpoint is not None else None
    if to != ALL:
        return write_for(source, to, out, comparison)
    written, refused = {}, {}
    for target in TARGETS.names:
        try:
            folder = out / target / run_name(stored.file)
            written[target] = write_for(source, target, folder, comparison)
        except AceStepError as reason:
            refused[target] = f"{reason} {reason.hint}".strip()
    if not written:
        raise AdapterError(f"no program can load {stored.file}: {'; '.join(refused.values())}")
    return {"adapter": str(out), "source": str(stored.file), "targets": written, "refused": refused}


def run_name(file: Path) -> str:
    """The name of an adapter: that of its run, with the epoch of an earlier checkpoint, or that of its file."""
    if not _USUAL_FILE.fullmatch(file.stem):
        return file.stem
    folder = file.parent
    epoch = next((part for part in folder.parts[::-1] if part.startswith("epoch_")), "")
    while _RUN_SUBFOLDERS.fullmatch(folder.name):
        folder = folder.parent
    name = folder.resolve().name
    return f"{name}-{epoch}" if epoch else name


def _with_facts(stored: StoredAdapter, prompt: str, license: str, dtype: str | None) -> StoredAdapter:
    """The adapter with the metadata and dtype of the exported files."""
    facts = {**stored.metadata.facts, "sample_prompt": prompt or sample_prompt(stored.metadata)}
    facts |= {"license": license} if license else {}
    meta = dataclasses.replace(stored.metadata, facts=facts)
    return dataclasses.replace(stored, metadata=meta, dtype=DTYPES[dtype] if dtype else stored.dtype)


def write_for(source: ExportSource, to: str, out: Path, comparison: OutputComparison | None = None) -> dict[str, Any]:
    """Write ``source`` for one program and verify it, with ``comparison`` also by decoder outputs."""
    write = TARGETS[to].load()
    require_replaceable_export(out)
    meta = source.adapter.metadata
    with replace_folder(out) as fresh:
        written = write(source, fresh, out.name)
        found = compare(source, written)
        facts = dataclasses.replace(meta, kind=meta.kind or source.adapter.kind)
        effect = strength_effect(to, written.loaded.modules, has_magnitudes=source.needs_base)
        text = model_card(
            out.name, facts, target=TARGETS[to], form=written.form, residual=found.residual, strength=effect
        )
        write_text(fresh / README, text)
    result = {
        "adapter": str(out / written.file),
        "source": str(source.adapter.file),
        "kind": source.adapter.kind,
        "form": written.form,
        **metrics_as_json(found),
        "trigger_word": meta.trigger_word,
        "notes": _notes(source, written, found.residual),
    }
    if comparison:
        result["output_error"] = comparison.error(written)
    return result


def _notes(source: ExportSource, written: WrittenAdapter, residual: float) -> list[str]:
    """How far the adapter is from the trained one, unless the difference is only rounding."""
    if written.exact or source.lora_error <= EXACT:
        return []
    rank = max(parts["lora_A"].shape[0] for parts in source.lora.modules.values())
    return [
        f"the LoRA of rank {rank} has a relative error of {residual:.2%}; a higher rank reduces it, and merging the "
        "adapter into its base model avoids it"
    ]


def require_replaceable_export(out: Path) -> None:
    """Raise StorageError unless ``out`` is new, empty, or an adapter folder that this program wrote."""
    if not exists(out) or (is_folder(out) and (not any(out.iterdir()) or _is_own_export(out))):
        return
    raise StorageError(f"{out} exists and was not written by this program", hint="Choose a new folder.")


def _is_own_export(folder: Path) -> bool:
    """Whether ``folder`` contains exactly one adapter of this program with its model card, and no other files.

    Training writes no model card, so its folders are never replaced.
    """
    names = {each.name for each in folder.iterdir()}
    files = names - {README, LORA_CONFIG, LOKR_CONFIG}
    if len(files) != 1 or README not in names:
        return False
    try:
        file = folder / files.pop()
        read_safetensors_header(file)
        metadata = read_safetensors_metadata(file)
        metadata |= parse_json(metadata.get("run_metadata", "{}"))
    except (CheckpointError, OSError, ValueError, TypeError):
        return False
    return str(metadata.get("program", "")).startswith("acestep ")
