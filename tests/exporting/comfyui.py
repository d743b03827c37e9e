"""Independent implementation of ComfyUI's loader for ACE-Step 1.5 adapters, as a reference for the export tests.

Follows comfy/lora.py (keys) and comfy/weight_adapter/{lora,loha,lokr}.py (computation), as of 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from acestep.models.dit import AceStepDiT
from acestep.models.key_mapping import original_to_diffusers
from tests.adapters.small import with_original_names


def key_map(decoder: AceStepDiT) -> dict[str, str]:
    """Key prefix -> original name of its weight."""
    found = {}
    for weight in with_original_names(decoder).state_dict():
        name = weight.removesuffix(".weight")
        if name != weight:
            flat = name.replace(".", "_")
            prefixes = (f"base_model.model.{name}", f"lycoris_{flat}", f"diffusion_model.decoder.{name}")
            found |= dict.fromkeys((*prefixes, f"lora_unet_decoder_{flat}"), name)
    return found


@torch.no_grad()
def load_into(decoder: AceStepDiT, file: Path) -> list[str]:
    """Patch the weights of ``decoder`` as the node "Load LoRA" does at strength 1; return the keys it did not load."""
    tensors, used = load_file(file), set[str]()
    for x, name in key_map(decoder).items():
        found = {key: value for key, value in tensors.items() if key.startswith((f"{x}.", f"{x}_lora."))}
        weight = decoder.get_submodule(original_to_diffusers(name)).weight
        assert isinstance(weight, Tensor)
        patch = _patch(x, found, used, weight)
        if patch is not None and patch.numel() == weight.numel():
            weight += patch.reshape(weight.shape)
        elif patch is not None:
            used -= set(found)  # ComfyUI logs an error and leaves the weight unchanged
    return [key for key in tensors if key not in used]


def _patch(x: str, tensors: Mapping[str, Tensor], used: set[str], weight: Tensor) -> Tensor | None:
    def take(suffix: str) -> Tensor | None:
        if f"{x}.{suffix}" not in tensors:
            return None
        used.add(f"{x}.{suffix}")
        return tensors[f"{x}.{suffix}"].float()

    alpha = take("alpha")
    assert f"{x}.dora_scale" not in tensors, "the DoRA computation depends on the ComfyUI version"
    for up, down in (("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight"), ("lora_B", "lora_A")):
        if f"{x}.{up}" in tensors:
            b, a = take(up), take(down)
            assert a is not None
            assert b is not None
            return b.flatten(1) @ a.flatten(1) * _scale(alpha, a.shape[0])
    if f"{x}.hada_w1_a" in tensors:
        w1a, w1b, w2a, w2b = (take(f"hada_{part}") for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
        assert w1a is not None and w1b is not None and w2a is not None and w2b is not None  # noqa: PT018
        return (w1a @ w1b) * (w2a @ w2b) * _scale(alpha, w1b.shape[0])
    if any(f"{x}.lokr_w{half}" in tensors or f"{x}.lokr_w{half}_a" in tensors for half in (1, 2)):
        return _kronecker(take, alpha)
    diff = take("diff")
    return diff if diff is None or diff.shape == weight.shape else None


def _kronecker(take: object, alpha: Tensor | None) -> Tensor:
    halves, dim = [], None
    for half in ("lokr_w1", "lokr_w2"):
        factor = take(half)  # type: ignore[operator]
        if factor is None:
            a, b = take(f"{half}_a"), take(f"{half}_b")  # type: ignore[operator]
            factor, dim = a @ b, b.shape[0]
        halves.append(factor)
    return torch.kron(*halves) * (_scale(alpha, dim) if dim else 1.0)


def _scale(alpha: Tensor | None, rank: int) -> float:
    return 1.0 if alpha is None else float(alpha) / rank


def unloaded(decoder: nn.Module, file: Path) -> list[str]:
    """Keys of ``file`` that ComfyUI does not load and only mentions in its log."""
    assert isinstance(decoder, AceStepDiT)
    return load_into(decoder, file)
