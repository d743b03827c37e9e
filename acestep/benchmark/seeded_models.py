"""Base models with seeded weights and songs of noise, so that training can be measured without a download.

The decoder has the shapes of its size. The encoders, which training does not read, have one layer each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from acestep.core.files import write_json
from acestep.models.checkpoint import SILENCE_FILE, Checkpoint, encoder_fingerprint, find_checkpoint
from acestep.models.condition import context_latents
from acestep.models.load import load_silence_latent
from acestep.models.tiny import SIZES as TINY
from acestep.models.tiny_weights import initial_weight
from acestep.models.weight_shapes import encoder_sizes, expected_shapes
from acestep.tensors.record import LATENT_CHANNELS, TensorRecord, write_record
from acestep.training.memory.spec import FAMILIES

Size = Literal["tiny", "small", "2b", "xl"]

CONDITION_TOKENS = 400
_SEED = 20
_SILENCE_FRAMES = 15_000  # ten minutes, as in the published models
_ENCODERS = {
    "num_lyric_encoder_hidden_layers": 1,
    "num_timbre_encoder_hidden_layers": 1,
    "num_attention_pooler_hidden_layers": 1,
}
_CONFIGS: dict[Size, Mapping[str, Any]] = {
    "tiny": {**FAMILIES["2b"], **TINY},
    "small": {
        **FAMILIES["2b"],
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "fsq_dim": 512,
    },
    "2b": FAMILIES["2b"],
    "xl": FAMILIES["xl"],
}


def write_seeded_model(folder: Path, size: Size) -> None:
    """Write a base model of ``size`` in bf16 into the new ``folder``."""
    folder.mkdir(parents=True)
    config = {**_CONFIGS[size], **_ENCODERS, "is_turbo": True}
    shapes = expected_shapes(config)
    weights = {name: torch.from_numpy(initial_weight(name, shape)).bfloat16() for name, shape in shapes.items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    torch.save(torch.zeros(1, LATENT_CHANNELS, _SILENCE_FRAMES), folder / SILENCE_FILE)
    write_json(folder / "config.json", config)


def write_seeded_tensors(folder: Path, model: Path, *, songs: int, frames: int, unequal: bool = False) -> None:
    """Write ``songs`` songs of noise for ``model`` into the new ``folder``.

    Args:
        frames: length of the songs in latent frames; the conditions have ``CONDITION_TOKENS`` tokens.
        unequal: the lengths of songs and conditions are spread evenly between half of that and all of it instead.
    """
    checkpoint = find_checkpoint(model)
    silence, metadata = load_silence_latent(checkpoint), _metadata(checkpoint)
    folder.mkdir(parents=True)
    for number in range(songs):
        share = 1 - 0.5 * number / max(songs - 1, 1) if unequal else 1.0
        song = _song(
            checkpoint, silence, max(2, round(share * frames)), round(share * CONDITION_TOKENS), number, metadata
        )
        write_record(folder / f"song {number:03}.pt", song)


def _metadata(checkpoint: Checkpoint) -> dict[str, str]:
    return {"model_checkpoint": checkpoint.name, "encoder_fingerprint": encoder_fingerprint(checkpoint)}


def _song(
    checkpoint: Checkpoint, silence: Tensor, frames: int, tokens: int, number: int, metadata: Mapping[str, str]
) -> TensorRecord:
    generator = torch.Generator().manual_seed(_SEED + number)
    width = encoder_sizes(checkpoint.config)["hidden_size"]
    return TensorRecord(
        torch.randn(frames, LATENT_CHANNELS, generator=generator).bfloat16(),
        context_latents(silence, frames).bfloat16(),
        torch.randn(tokens, width, generator=generator).bfloat16(),
        {"filename": f"song {number:03}.wav", **metadata},
    )
