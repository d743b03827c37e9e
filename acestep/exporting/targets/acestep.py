"""Export to the ACE-Step app."""

from __future__ import annotations

from pathlib import Path

from acestep.adapters.files import read_adapter
from acestep.adapters.lora_file import CONFIG
from acestep.core.errors import AdapterError
from acestep.core.files import read_json
from acestep.exporting.load_result import LoadResult, WrittenAdapter
from acestep.exporting.lokr_config import with_loadable_config
from acestep.exporting.source import ExportSource, read_tensors, write_adapter_files


def write(source: ExportSource, folder: Path, name: str) -> WrittenAdapter:
    """Write PEFT's two files, or a LoKr with the config from which the app builds it. ``name`` is not used.

    Raises:
        AdapterError: the app cannot load this kind of adapter.
    """
    same_kind = with_loadable_config(source.same_kind) if source.same_kind else None
    adapter = same_kind or source.lora
    write_adapter_files(adapter, folder)
    if not _is_loadable(folder):
        raise AdapterError(
            f"the ACE-Step app has no loader for {source.adapter.file}",
            hint="Set a rank to convert the adapter to a LoRA.",
        )
    return WrittenAdapter(LoadResult(read_adapter(folder).modules), adapter.kind, adapter is same_kind)


def _is_loadable(folder: Path) -> bool:
    """Whether the folder holds any PEFT type, or a LyCORIS LoKr with the config from which the app builds it."""
    if (folder / CONFIG).is_file():
        return bool(read_json(folder / CONFIG, error=AdapterError).get("peft_type"))
    return all("lokr_config" in read_tensors(file)[1] for file in folder.glob("*.safetensors"))
