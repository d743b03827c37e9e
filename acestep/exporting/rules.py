"""What other programs make of a file: which keys they know, and what each module then adds.

Each rule restates one program's loader. It gives the folded parts of every module, as that program scales
them, and the keys that it would leave out, which none of these programs tells its user.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from acestep.adapters.lokr_file import scaled_part
from acestep.adapters.targets import module_from_underscores, unknown_modules
from acestep.exporting.delta import DIFF
from acestep.models.names import diffusers_to_original


@dataclass(frozen=True, slots=True)
class Heard:
    """What a program makes of a file: original module name -> folded parts, and the keys it does not load."""

    modules: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def drop(self, module: str, keys: list[str]) -> None:
        self.modules.pop(module, None)
        self.left_out.extend(keys)


# ComfyUI (comfy/lora.py and comfy/weight_adapter, commits of 2025-10 to 2026; INTEROP B2).

_DOTTED = ("base_model.model.", "diffusion_model.decoder.")
_FLAT = ("lycoris_", "lora_unet_decoder_")
_COMFYUI_PARTS = {
    **dict.fromkeys(("lora_B.weight", "lora_up.weight", "lora_B", "lora.up.weight", "lora_B.default.weight"), "lora_B"),
    **dict.fromkeys(
        ("lora_A.weight", "lora_down.weight", "lora_A", "lora.down.weight", "lora_A.default.weight"), "lora_A"
    ),
    **{part: part for part in ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")},
    **{f"hada_w{n}_{x}": f"hada_w{n}_{x}" for n in (1, 2) for x in "ab"},
    "alpha": "alpha",
    DIFF: DIFF,
}
_COMPLETE = (
    {"lora_A", "lora_B"},
    {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"},
    {DIFF},
    {"lokr_w1", "lokr_w2"},
    {"lokr_w1", "lokr_w2_a", "lokr_w2_b"},
    {"lokr_w1_a", "lokr_w1_b", "lokr_w2"},
    {"lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"},
)


def comfyui(tensors: Mapping[str, Tensor]) -> Heard:
    """ComfyUI's ACE-Step 1.5: scale alpha / rank where the file has an alpha, else 1; no other file counts."""
    heard, keys = Heard(), dict[str, list[str]]()
    for key, tensor in tensors.items():
        module, part = _comfyui_key(key)
        if not module:
            heard.left_out.append(key)
            continue
        keys.setdefault(module, []).append(key)
        heard.modules.setdefault(module, {})[part] = tensor
    for module, parts in list(heard.modules.items()):
        alpha = parts.pop("alpha", None)
        if set(parts) not in _COMPLETE or any(tensor.dim() > 2 for name, tensor in parts.items() if name != DIFF):
            heard.drop(module, keys[module])  # kernels of a convolution are multiplied in the wrong order there
        elif alpha is not None:
            _scale(parts, float(alpha))
    return heard


def _comfyui_key(key: str) -> tuple[str, str]:
    """Original module name and our name of the part; empty where ComfyUI has no such key."""
    for suffix, part in _COMFYUI_PARTS.items():
        name = key.removesuffix(f".{suffix}")
        if name == key:
            continue
        for prefix in (*_DOTTED, *_FLAT):
            if name.startswith(prefix):
                module = name.removeprefix(prefix)
                module = module_from_underscores(module) if prefix in _FLAT else module
                return ("", "") if unknown_modules([module]) else (module, part)
    return "", ""


def _scale(parts: dict[str, Tensor], alpha: float) -> None:
    """Multiply alpha / rank into ``parts``; it does not count where nothing was split into thin factors."""
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


# diffusers 0.42.1 (loaders/lora_pipeline.py, AceStepLoraLoaderMixin; INTEROP B3).

_DIFFUSERS_PARTS = {
    "lora_A.weight": "lora_A",
    "lora_B.weight": "lora_B",
    "lora_magnitude_vector": "lora_magnitude_vector",
}
_RENAMED = re.compile(r"[qk]_proj")


def diffusers(tensors: Mapping[str, Tensor]) -> Heard:
    """``AceStepPipeline.load_lora_weights``: every rank is its alpha; original names count only if there is a
    q_proj or k_proj among them; one key without "lora" spoils the file."""
    if not all("lora" in key for key in tensors):
        return Heard(left_out=list(tensors))
    original = any(_RENAMED.search(key) for key in tensors)
    heard = Heard()
    for key, tensor in tensors.items():
        name = key.removeprefix("base_model.model.") if original else key.removeprefix("transformer.")
        suffix = next((suffix for suffix in _DIFFUSERS_PARTS if name.endswith(f".{suffix}")), "")
        module = name.removesuffix(f".{suffix}")
        module = module if original else diffusers_to_original(module)
        known = suffix and not unknown_modules([module]) and (original or key.startswith("transformer."))
        if not known or "proj_in" in module:  # the convolution has another name there, which is not mapped
            heard.left_out.append(key)
        else:
            heard.modules.setdefault(module, {})[_DIFFUSERS_PARTS[suffix]] = tensor
    for module, parts in list(heard.modules.items()):
        if not {"lora_A", "lora_B"} <= set(parts):
            heard.drop(module, [key for key in tensors if module in key])
    return heard
