"""Adapters for other programs: written whole, read back, compared, and only then put in place."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open

from acestep.adapters.base import StoredAdapter, require_finite
from acestep.adapters.files import read_adapter
from acestep.adapters.lokr_file import CONFIG as LOKR_CONFIG
from acestep.adapters.lora_file import CONFIG as LORA_CONFIG
from acestep.core.errors import AceStepError, AdapterError, StorageError
from acestep.core.files import replace_folder, write_text
from acestep.exporting.check import Listener, compare, figures_of, require_learned
from acestep.exporting.configs import ALL, TARGETS
from acestep.exporting.delta import base_of, needs_base
from acestep.exporting.lowrank import EXACT
from acestep.exporting.programs import Written, left_behind
from acestep.exporting.readme import README, readme, sample_prompt
from acestep.exporting.source import Source

Writer = Callable[[Source, Path, str], Written]
"""(adapter, an empty folder, the name it goes by) -> what the program will make of what was written."""

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_USUAL_FILE = re.compile(r"adapter_model|lo\w\w_weights")
_PARTS_OF_A_RUN = re.compile(r"adapter|final|best|checkpoints|epoch_\d+.*")


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
    """Write ``adapter`` for the program ``to`` and check the result by reading it as that program will.

    Args:
        adapter: an adapter folder or file, or a run folder: then its final adapter, else the best, else the
            newest checkpoint.
        to: a name in ``TARGETS``, or "all" for each of them in a folder of its own below ``out``.
        out: the folder to write. It is replaced only if this program made it.
        checkpoint: the base model. With it the whole decoder's answer is compared too; DoRA needs it for ComfyUI.
            Without, it is looked for by the name that the adapter tells.
        rank: make it a LoRA of this rank, whatever it is; without, it is changed only where the program demands it.
        strength: baked in.
        dtype: of the weights; without, that of ``adapter``.
        prompt, license: for the model card and the metadata.

    Returns:
        ``adapter`` (path to hand over), ``source``, ``kind``, ``form``, ``modules``, ``delta_norm`` (smallest and
        largest addition to a weight), ``residual`` (what is lost, as a share), ``output_error`` with ``checkpoint``,
        ``trigger_word``, ``notes``. For "all" these under ``targets``, and under ``refused`` why one is missing.

    Raises:
        AdapterError: nothing readable there, the adapter adds nothing to some module, or the program cannot take it.
        ModelMismatch: it was made for another model than ``checkpoint``.
        UnknownName: no such target.
        StorageError: ``out`` holds something else, or cannot be written.
    """
    if to != ALL:
        TARGETS[to]  # a wrong name is told before anything is read
    if require_finite(strength) == 0.0:
        raise AdapterError("at strength 0 nothing of the adapter is left", hint="Use a number such as 1.0.")
    stored = _told(read_adapter(adapter), prompt, license, dtype)
    base = base_of(stored, checkpoint) if checkpoint is not None or needs_base(stored) else None
    source = Source(stored, base, rank=rank, strength=strength)
    require_learned(source)
    listener = Listener(source, base) if base and checkpoint is not None else None
    if to != ALL:
        return write_for(source, to, out, listener)
    written, refused = {}, {}
    for target in TARGETS.names:
        try:
            folder = out / target / run_name(stored.file)
            written[target] = write_for(source, target, folder, listener)
        except AceStepError as reason:
            refused[target] = f"{reason} {reason.hint}".strip()
    if not written:
        raise AdapterError(f"no program can take {stored.file}: {'; '.join(refused.values())}")
    return {"adapter": str(out), "source": str(stored.file), "targets": written, "refused": refused}


def run_name(file: Path) -> str:
    """What an adapter is called: its run, with the epoch if it is an earlier checkpoint; or as its file is."""
    if not _USUAL_FILE.fullmatch(file.stem):
        return file.stem
    folder = file.parent
    epoch = next((part for part in folder.parts[::-1] if part.startswith("epoch_")), "")
    while _PARTS_OF_A_RUN.fullmatch(folder.name):
        folder = folder.parent
    name = folder.resolve().name
    return f"{name}-{epoch}" if epoch else name


def _told(stored: StoredAdapter, prompt: str, license: str, dtype: str | None) -> StoredAdapter:
    """The adapter with what its files shall tell, in the type they shall have."""
    facts = {**stored.card.facts, "sample_prompt": prompt or sample_prompt(stored.card)}
    facts |= {"license": license} if license else {}
    card = dataclasses.replace(stored.card, facts=facts)
    return dataclasses.replace(stored, card=card, dtype=DTYPES[dtype] if dtype else stored.dtype)


def write_for(source: Source, to: str, out: Path, listener: Listener | None = None) -> dict[str, Any]:
    """Write and check ``source`` for one program; a ``listener`` compares the decoder's answers too."""
    write: Writer = TARGETS[to].load()
    require_free(out)
    card = source.adapter.card
    with replace_folder(out) as fresh:
        written = write(source, fresh, out.name)
        found = compare(source, written)
        text = readme(out.name, card, program=to, form=written.form, residual=found.residual)
        write_text(fresh / README, text)
    result = {
        "adapter": str(out / written.hand_over),
        "source": str(source.adapter.file),
        "kind": source.adapter.kind,
        "form": written.form,
        **figures_of(found),
        "trigger_word": card.trigger_word,
        "notes": _notes(source, written, found.residual),
    }
    if listener:
        result["output_error"] = listener.error(written)
    return result


def _notes(source: Source, written: Written, residual: float) -> list[str]:
    notes = [f"{module} is left out: this program cannot take it" for module in left_behind(source, written.heard)]
    if not written.exact and residual > EXACT:
        notes.append(f"as a LoRA it loses {residual:.2%} of what was trained; a higher rank keeps more")
    return notes


def require_free(out: Path) -> None:
    """Raises StorageError unless ``out`` is new, empty, or an adapter folder that this program wrote."""
    if not out.exists() or (out.is_dir() and (not any(out.iterdir()) or _ours(out))):
        return
    raise StorageError(f"{out} exists and was not made by this program", hint="Choose a new folder.")


def _ours(folder: Path) -> bool:
    """Whether ``folder`` holds one adapter file that this program wrote with its model card, and no strange files.

    Training writes no model card: its folders are never replaced.
    """
    names = {each.name for each in folder.iterdir()}
    files = names - {README, LORA_CONFIG, LOKR_CONFIG}
    if len(files) != 1 or README not in names:
        return False
    try:
        with safe_open(folder / files.pop(), framework="pt") as opened:
            told = opened.metadata() or {}
            told |= json.loads(told.get("run_metadata", "{}"))
    except (SafetensorError, OSError, ValueError, TypeError):
        return False
    return str(told.get("program", "")).startswith("acestep ")
