"""Export to ComfyUI, and the keys and scaling of its loader.

Follows comfy/lora.py and comfy/weight_adapter, commits of October 2025 to 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from acestep.adapters.base import write_tensors
from acestep.adapters.lokr_file import scaled_part
from acestep.adapters.other_formats import ANY_DIM, DIFF, parse_comfyui_key
from acestep.exporting.load_result import LoadResult, WrittenAdapter
from acestep.exporting.source import ExportSource, read_tensors, serialize_adapter

_COMPLETE = (
    {"lora_A", "lora_B"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    {DIFF},
    {"lokr_w1", "lokr_w2"},
    {"lokr_w1", "lokr_w2_a", "lokr_w2_b"},
    {"lokr_w1_a", "lokr_w1_b", "lokr_w2"},
    {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"},
)


def write(source: ExportSource, folder: Path, name: str) -> WrittenAdapter:
    """Write one file.

    Modules that ComfyUI does not load or computes incorrectly are stored as full weight differences (diff).
    """
    adapter = source.same_kind if source.rank is None else source.lora
    tensors, metadata = source.same_kind_file if source.rank is None else serialize_adapter(source.lora)
    meta = source.adapter.metadata.with_config(source.adapter.kind, source.adapter.metadata.config)
    loaded = load(tensors)
    as_delta = {source.module_of_key(key) for key in loaded.ignored_keys} | (
        source.modules.keys() - loaded.modules.keys()
    )
    unused = {key for key in tensors if key.endswith(".alpha") and _is_unscaled(loaded, source.module_of_key(key))}
    tensors = {
        key: tensor
        for key, tensor in tensors.items()
        if key not in unused and source.module_of_key(key) not in as_delta
    }
    form = " and ".join(
        ([adapter.kind] if adapter and tensors else []) + (["full weight differences (diff)"] if as_delta else [])
    )
    tensors |= {f"base_model.model.{module}.diff": source.diff(module) for module in sorted(as_delta)}
    file = f"{name}.safetensors"
    write_tensors(folder / file, tensors, metadata or meta.to_file_metadata())
    return WrittenAdapter(load(read_tensors(folder / file)[0]), form, source.rank is None, file)


def _is_unscaled(loaded: LoadResult, module: str) -> bool:
    """Whether the module has no rank, so that its alpha means nothing: a LoKr of two full matrices."""
    return loaded.modules.get(module, {}).keys() == {"lokr_w1", "lokr_w2"}


def load(tensors: Mapping[str, Tensor]) -> LoadResult:
    """The weights that ComfyUI loads for ACE-Step 1.5. The scale is alpha / rank if the file has an alpha, else 1."""
    result, keys = LoadResult(), dict[str, list[str]]()
    for key, tensor in tensors.items():
        module, part = parse_comfyui_key(key)
        if not module:
            result.ignored_keys.append(key)
            continue
        keys.setdefault(module, []).append(key)
        result.modules.setdefault(module, {})[part] = tensor
    for module, parts in list(result.modules.items()):
        alpha = parts.pop("alpha", None)
        if set(parts) not in _COMPLETE or any(
            tensor.dim() > 2 for name, tensor in parts.items() if name not in ANY_DIM
        ):
            result.drop(module, keys[module])  # ComfyUI multiplies LoKr kernels of convolutions in the wrong order
        elif alpha is not None:
            _scale(parts, float(alpha))
    return result


def _scale(parts: dict[str, Tensor], alpha: float) -> None:
    """Multiply ``parts`` by alpha / rank. Parts without low-rank factors are not scaled."""
    if "lora_A" in parts:
        part, rank = "lora_B", parts["lora_A"].shape[0]
    elif "hada_w1_b" in parts:
        part, rank = "hada_w1_a", parts["hada_w1_b"].shape[0]
    elif "lokr_w1_b" in parts or "lokr_w2_b" in parts:
        part = scaled_part(parts)
        rank = parts[part].shape[0]
    else:
        return
    parts[part] = parts[part].float() * (alpha / rank)
