"""Other forms of a checkpoint folder, for the tests of finding, checking and loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from acestep.models import load_audio_detokenizer, load_audio_tokenizer, load_condition_encoder, load_dit


def copied(checkpoint: Path, folder: Path) -> Path:
    """The DiT folder again, under another parent, to be changed."""
    return Path(shutil.copytree(checkpoint, folder / checkpoint.name))


def rewritten(checkpoint: Path, **changes: torch.Tensor | None) -> None:
    """Replace or add weights in ``model.safetensors``; None takes one out. Dots in names are written as ``__``."""
    weights = load_file(checkpoint / "model.safetensors")
    for name, tensor in changes.items():
        weights.pop(name.replace("__", "."), None)
        if tensor is not None:
            weights[name.replace("__", ".")] = tensor
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})


def sharded(checkpoint: Path, folder: Path, num_shards: int = 3) -> Path:
    """The checkpoint with its weights in several files and an index."""
    target = copied(checkpoint, folder)
    weights = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    places = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05}-of-{num_shards:05}.safetensors"
        keys = sorted(weights)[number::num_shards]
        save_file({key: weights[key] for key in keys}, target / name, {"format": "pt"})
        places |= dict.fromkeys(keys, name)
    index = {"metadata": {}, "weight_map": places}
    (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return target


def in_diffusers_layout(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint as diffusers' own writer saves its parts, with its companions inside."""
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
