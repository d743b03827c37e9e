"""The loaders of the other programs: each returns the output of a decoder that has loaded an exported adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin
from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor

from acestep.models.dit import AceStepDiT
from tests.adapters.small import with_original_names
from tests.exporting.comfyui import load_into
from tests.exporting.models import probe_output


def by_the_app(decoder: AceStepDiT, folder: Path) -> Tensor:
    """PEFT or LyCORIS on modules with original names, as the ACE-Step app calls them."""
    tree = with_original_names(decoder)
    lokr = folder / "lokr_weights.safetensors"
    if not lokr.is_file():
        return probe_output(PeftModel.from_pretrained(tree, folder, adapter_name=folder.name))
    found = _loaded_by_lycoris(with_original_names(decoder), lokr)
    with torch.no_grad():
        network, _ = create_lycoris_from_weights(1.0, str(lokr), tree)
    network.apply_to()
    again = probe_output(tree)
    assert torch.allclose(found, again, atol=1e-5, rtol=1e-4)  # from the config, and from the shapes in the file
    return found


def _loaded_by_lycoris(tree: Any, file: Path) -> Tensor:
    """Output of the LyCORIS network that the config in the file describes, with the weights of the file."""
    with safe_open(file, framework="pt") as opened:
        settings = json.loads(opened.metadata()["lokr_config"])
    before = {name: value for name, value in vars(LycorisNetwork).items() if name.isupper()}
    try:
        LycorisNetwork.apply_preset({"target_name": [rf".*{name}" for name in settings["target_modules"]]})
        keys = ("linear_dim", "linear_alpha", "factor", "decompose_both", "use_tucker")
        flags = {
            "dora_wd": settings.get("weight_decompose", False),
            "unbalanced_factorization": settings.get("unbalanced_factorization", False),
        }
        network = create_lycoris(tree, 1.0, algo="lokr", **flags, **{key: settings[key] for key in keys})
    finally:
        for name, value in before.items():
            setattr(LycorisNetwork, name, value)
    network.apply_to()
    network.load_weights(str(file))
    return probe_output(tree)


def by_comfyui(decoder: AceStepDiT, file: Path) -> Tensor:
    assert load_into(decoder, file) == []
    return probe_output(decoder)


def by_diffusers(decoder: AceStepDiT, folder: Path) -> Tensor:
    """The steps of ``pipeline.load_lora_weights(folder)``: its check of the keys, then its loader."""
    state, metadata = AceStepLoraLoaderMixin.lora_state_dict(str(folder), return_lora_metadata=True)
    assert all("lora" in key for key in state)
    AceStepLoraLoaderMixin.load_lora_into_transformer(state, decoder, metadata=metadata)
    return probe_output(decoder)


READERS: dict[str, Callable[[AceStepDiT, Path], Tensor]] = {
    "acestep": by_the_app,
    "comfyui": by_comfyui,
    "diffusers": by_diffusers,
}
