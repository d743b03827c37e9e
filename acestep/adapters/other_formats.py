"""Key formats of other programs, which ``import`` converts: those of ComfyUI and diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from acestep.adapters.part_shapes import check_parts
from acestep.adapters.targets import module_from_underscores, unknown_modules
from acestep.core.errors import AdapterError
from acestep.models.key_mapping import diffusers_to_original

DIFF = "diff"  # part name of a full weight difference, as in LyCORIS
ANY_DIM = (DIFF, "lora_A", "lora_B")  # ComfyUI flattens these parts of a convolution

IMPORT_HINT = "Convert it first: python -m acestep import FILE --out FOLDER."

_AMBIGUOUS = "base_model.model."  # in this format the scale is in a config file, not in the weights
_DOTTED = (_AMBIGUOUS, "diffusion_model.decoder.")
_FLAT = ("lycoris_", "lora_unet_decoder_")
_DIFFUSERS = "transformer."
_LOW_RANK = (".lora_", ".hada_", ".lokr_w1_b", ".lokr_w2_b")  # low-rank factors, which have a scale
_PARTS = {
    **dict.fromkeys(("lora_B.weight", "lora_up.weight", "lora_B", "lora.up.weight", "lora_B.default.weight"), "lora_B"),
    **dict.fromkeys(
        ("lora_A.weight", "lora_down.weight", "lora_A", "lora.down.weight", "lora_A.default.weight"), "lora_A"
    ),
    **{part: part for part in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")},
    **{f"hada_w{n}_{x}": f"hada_w{n}_{x}" for n in (1, 2) for x in "ab"},
    "alpha": "alpha",
    DIFF: DIFF,
}


def parse_comfyui_key(key: str) -> tuple[str, str]:
    """Original module name and part; both empty if ComfyUI does not know the key."""
    for suffix, part in _PARTS.items():
        name = key.removesuffix(f".{suffix}")
        if name == key:
            continue
        for prefix in (*_DOTTED, *_FLAT):
            if name.startswith(prefix):
                module = name.removeprefix(prefix)
                module = module_from_underscores(module) if prefix in _FLAT else module
                return ("", "") if unknown_modules([module]) else (module, part)
    return "", ""


def has_unknown_scale(tensors: Mapping[str, Tensor]) -> bool:
    """Whether the scale is in a config file: low-rank factors in PEFT's format without an alpha."""
    low_rank = any(part in key for key in tensors for part in _LOW_RANK)
    alphas = any(key.endswith(".alpha") for key in tensors)
    return low_rank and not alphas and all(key.startswith(_AMBIGUOUS) for key in tensors)


def is_importable(file: Path, tensors: Mapping[str, Tensor]) -> bool:
    """Whether ``import`` reads these tensors: all keys are known, the scale too, and all shapes match."""
    if not tensors or has_unknown_scale(tensors):
        return False
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        module, part = _parse_diffusers_key(key) if key.startswith(_DIFFUSERS) else parse_comfyui_key(key)
        if not module or (tensor.dim() > 2 and part not in ANY_DIM):
            return False
        if part != "alpha":
            modules.setdefault(module, {})[part] = tensor
    try:
        for name, parts in modules.items():
            if set(parts) != {DIFF}:
                check_parts(file, name, parts)
    except AdapterError:
        return False
    return bool(modules)


def _parse_diffusers_key(key: str) -> tuple[str, str]:
    for suffix, part in (("lora_A.weight", "lora_A"), ("lora_B.weight", "lora_B")):
        name = key.removesuffix(f".{suffix}")
        if name != key:
            module = diffusers_to_original(name.removeprefix(_DIFFUSERS))
            return ("", "") if unknown_modules([module]) else (module, part)
    return "", ""
