"""LyCORIS' own LoKr modules with the weights of a file, as the programs that use LyCORIS compute them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from lycoris.modules.lokr import LokrModule
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from acestep.adapters.lokr_file import PREFIX
from acestep.adapters.targets import module_from_underscores
from acestep.models.key_mapping import original_to_diffusers


def apply_lokr(decoder: nn.Module, file: Path, strength: float = 1.0) -> list[LokrModule]:
    """Build the modules from the settings in the file, as the ACE-Step app does, and load its weights.

    ``rs_lora`` is not passed on, as in ``create_lycoris`` of LyCORIS 4.1.3.
    """
    with safe_open(file, framework="pt") as opened:
        settings = json.loads(opened.metadata()["lokr_config"])
    tensors, modules = load_file(file), []
    for flat in dict.fromkeys(key.partition(".")[0] for key in tensors):
        parts: dict[str, Tensor] = {
            key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{flat}.")
        }
        layer = decoder.get_submodule(original_to_diffusers(module_from_underscores(flat.removeprefix(PREFIX))))
        module = LokrModule(
            flat,
            layer,
            strength,
            settings["linear_dim"],
            settings["linear_alpha"],
            factor=settings["factor"],
            decompose_both=settings["decompose_both"],
            weight_decompose="dora_scale" in parts,
            wd_on_out=parts["dora_scale"].shape[0] != 1 if "dora_scale" in parts else True,
            unbalanced_factorization=settings.get("unbalanced_factorization", False),
            full_matrix=settings.get("full_matrix", False),
            bypass_mode=False,
        )
        module.load_state_dict(parts, strict=True)
        module.apply_to()
        modules.append(module.eval())
    return modules


@torch.no_grad()
def merged_weights(modules: list[LokrModule]) -> dict[str, Tensor]:
    """Name in the file -> the weight that the forward pass of each module computes with."""
    found = {}
    for module in modules:
        weight = module.org_module[0].weight.float()
        delta = module.get_weight(module.shape)
        strength = module.multiplier
        found[module.lora_name] = (
            module.apply_weight_decompose(weight + delta, strength) if module.wd else weight + strength * delta
        )
    return found
