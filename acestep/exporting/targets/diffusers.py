"""Export to diffusers, and the keys of its loader.

Follows diffusers 0.42.1: loaders/lora_pipeline.py, ``AceStepLoraLoaderMixin``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from acestep.adapters.base import write_tensors
from acestep.adapters.lora_file import PREFIX
from acestep.adapters.targets import CONVOLUTIONS, unknown_modules
from acestep.exporting.load_result import LoadResult, WrittenAdapter
from acestep.exporting.source import ExportSource, read_tensors, serialize_adapter
from acestep.models.key_mapping import diffusers_to_original, original_to_diffusers

FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers looks for first
_PARTS = {
    "lora_A.weight": "lora_A",
    "lora_B.weight": "lora_B",
    "lora_magnitude_vector": "lora_magnitude_vector",
}
_RENAMED = re.compile(r"[qk]_proj")
_KINDS = ("lora", "dora")


def write(source: ExportSource, folder: Path, name: str) -> WrittenAdapter:
    """Write one file, the only one in the folder, since the loader expects that. ``name`` is not used.

    The keys have original names, as the file for the ACE-Step app, unless the loader does not recognize all of them.
    """
    same_kind = source.same_kind if source.adapter.kind in _KINDS else None
    adapter = same_kind or source.lora
    tensors, metadata = source.same_kind_file if same_kind else serialize_adapter(adapter)
    if load(tensors).ignored_keys:
        tensors = {_diffusers_key(key): tensor for key, tensor in tensors.items()}
    write_tensors(folder / FILE, tensors, metadata)
    loaded = load(read_tensors(folder / FILE)[0])
    return WrittenAdapter(loaded, adapter.kind, adapter is same_kind)


def load(tensors: Mapping[str, Tensor]) -> LoadResult:
    """What ``AceStepPipeline.load_lora_weights`` loads.

    Every alpha equals its rank. Original names are recognized only if one of them contains q_proj or k_proj, and not
    for convolutions. A file with one key without "lora" is rejected completely.
    """
    if not all("lora" in key for key in tensors):
        return LoadResult(ignored_keys=list(tensors))
    original = any(_RENAMED.search(key) for key in tensors)
    result = LoadResult()
    for key, tensor in tensors.items():
        name = key.removeprefix("base_model.model.") if original else key.removeprefix("transformer.")
        suffix = next((suffix for suffix in _PARTS if name.endswith(f".{suffix}")), "")
        module = name.removesuffix(f".{suffix}")
        module = module if original else diffusers_to_original(module)
        known = suffix and not unknown_modules([module]) and (original or key.startswith("transformer."))
        if not known or (original and module in CONVOLUTIONS):
            result.ignored_keys.append(key)
        else:
            result.modules.setdefault(module, {})[_PARTS[suffix]] = tensor
    for module, parts in list(result.modules.items()):
        if not {"lora_A", "lora_B"} <= set(parts):
            result.drop(module, [key for key in tensors if module in key])
    return result


def _diffusers_key(key: str) -> str:
    """The key of PEFT's format in the names of diffusers, which its loader reads without renaming."""
    return f"transformer.{original_to_diffusers(key.removeprefix(PREFIX))}"
