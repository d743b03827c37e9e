"""Adapters for other programs: written whole, read back, compared, and only then put in place."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from acestep.adapters.base import StoredAdapter
from acestep.adapters.files import method, read_adapter
from acestep.adapters.lokr_file import CONFIG as LOKR_CONFIG
from acestep.adapters.lora_file import CONFIG as LORA_CONFIG
from acestep.core.errors import AdapterError, StorageError
from acestep.core.files import replace_folder
from acestep.exporting.configs import TARGETS

Writer = Callable[[StoredAdapter, Path], Path]
"""(adapter, what the user asked for as ``out``) -> the file or folder to give to the other program."""


def export_adapter(adapter: Path, to: str = "acestep", *, out: Path) -> dict[str, Any]:
    """Write ``adapter`` for the program ``to`` and check the result by reading it back.

    Args:
        adapter: an adapter folder or file, or a run folder: then its final adapter, else the best, else the
            newest checkpoint.
        to: a name in ``TARGETS``.
        out: what to write. A folder is replaced only if this program made it.

    Returns:
        ``adapter`` (path to hand over), ``source``, ``kind``, ``modules`` and ``delta_norm`` (smallest and
        largest addition to a weight), ``trigger_word``.

    Raises:
        AdapterError: nothing readable there, or the adapter adds nothing to some module.
        UnknownName: no such target.
        StorageError: ``out`` holds something else, or cannot be written.
    """
    write: Writer = pkgutil.resolve_name(TARGETS[to].make.implementation)
    stored = read_adapter(adapter)
    norms = _norms(stored)
    return {
        "adapter": str(write(stored, out)),
        "source": str(stored.file),
        "kind": stored.kind,
        "modules": len(norms),
        "delta_norm": [min(norms.values()), max(norms.values())],
        "trigger_word": stored.card.trigger_word,
    }


def write_folder(stored: StoredAdapter, out: Path) -> Path:
    """The adapter's own two files, scale folded in, whoever trained it."""
    require_free(out)
    with replace_folder(out) as fresh:
        method(stored.kind).write(fresh, stored.weights, stored.config, stored.card, stored.dtype)
        require_same(stored, read_adapter(fresh))
    return out


def require_free(out: Path) -> None:
    """Raises StorageError unless ``out`` is new, empty, or an adapter folder that this program wrote."""
    if not out.exists() or (out.is_dir() and (not any(out.iterdir()) or _ours(out))):
        return
    raise StorageError(f"{out} exists and was not made by this program", hint="Choose a new folder.")


def require_same(stored: StoredAdapter, written: StoredAdapter) -> None:
    """Raises AdapterError unless both have the same modules and the same weights, to the precision of the file."""
    if written.weights.keys() != stored.weights.keys():
        changed = sorted(written.weights.keys() ^ stored.weights.keys())
        raise AdapterError(f"the written adapter differs from {stored.file} in {', '.join(changed[:3])}")
    for name, value in stored.weights.items():
        if not torch.equal(value.to(stored.dtype).float(), written.weights[name]):
            raise AdapterError(f"the written adapter differs from {stored.file} in the values of {name}")


def _norms(stored: StoredAdapter) -> dict[str, float]:
    """Size of what each module adds to its weight. Raises AdapterError where it is nothing: it never learned."""
    norms = {name: method(stored.kind).delta_norm(parts) for name, parts in stored.modules.items()}
    if idle := [name for name, norm in norms.items() if not norm > 0]:
        raise AdapterError(
            f"{stored.file} changes nothing at {len(idle)} of {len(norms)} modules, such as {idle[0]}",
            hint="Train it for at least one step.",
        )
    return norms


def _ours(folder: Path) -> bool:
    """Whether ``folder`` holds the two files of an adapter that this program wrote, and nothing else."""
    try:
        stored = read_adapter(folder)
    except AdapterError:
        return False
    known = {stored.file.name, LORA_CONFIG, LOKR_CONFIG}
    return stored.card.program.startswith("acestep ") and {each.name for each in folder.iterdir()} <= known
