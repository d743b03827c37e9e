"""Copies of a checkpoint in other layouts or with changed weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from acestep.models import load_audio_detokenizer, load_audio_tokenizer, load_condition_encoder, load_dit


def copied(checkpoint: Path, folder: Path) -> Path:
    """A copy of the checkpoint folder in ``folder``, to be modified."""
    return Path(shutil.copytree(checkpoint, folder / checkpoint.name))


def rewritten(checkpoint: Path, **changes: torch.Tensor | None) -> None:
    """Replace or add weights in ``model.safetensors``; None removes one. Dots in keys are written as ``__``."""
    weights = load_file(checkpoint / "model.safetensors")
    for name, tensor in changes.items():
        weights.pop(name.replace("__", "."), None)
        if tensor is not None:
            weights[name.replace("__", ".")] = tensor
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})


def sharded(checkpoint: Path, folder: Path, num_shards: int = 3) -> Path:
    """A copy of the checkpoint with its weights in shards and an index."""
    target = copied(checkpoint, folder)
    weights = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    weight_map: dict[str, str] = {}
    for index in range(num_shards):
        name = f"model-{index + 1:05}-of-{num_shards:05}.safetensors"
        keys = sorted(weights)[index::num_shards]
        save_file({key: weights[key] for key in keys}, target / name, {"format": "pt"})
        weight_map |= dict.fromkeys(keys, name)
    content = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
    return target


def in_diffusers_layout(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint as diffusers' ``save_pretrained`` writes it, with the VAE and the text encoder."""
    target = folder / f"{checkpoint.name}-diffusers"
    load_dit(checkpoint).save_pretrained(target / "transformer")
    load_condition_encoder(checkpoint).save_pretrained(target / "condition_encoder")
    load_audio_tokenizer(checkpoint).save_pretrained(target / "audio_tokenizer")
    load_audio_detokenizer(checkpoint).save_pretrained(target / "audio_token_detokenizer")
    shutil.copytree(checkpoint.parent / "vae", target / "vae")
    text = checkpoint.parent / "Qwen3-Embedding-0.6B"
    (target / "text_encoder").mkdir()
    (target / "tokenizer").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(text / name, target / "text_encoder")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(text / name, target / "tokenizer")
    return target
