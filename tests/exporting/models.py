"""A base model that is small enough for fast export tests, and adapters trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from torch import Tensor, nn

from acestep.adapters.base import Adapter
from acestep.adapters.configs import ADAPTERS, AdapterConfig
from acestep.adapters.metadata import AdapterMetadata
from acestep.exporting.check import probe_decoder
from acestep.models.dit import AceStepDiT
from acestep.models.key_mapping import diffusers_to_original
from acestep.models.load import load_dit
from acestep.models.tiny_weights import dit_weights
from acestep.models.weight_shapes import DEFAULTS, expected_shapes
from tests.adapters.small import save, trained

NAME = "acestep-v15-small"
_SIZES = {
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "text_hidden_dim": 16,
    "num_lyric_encoder_hidden_layers": 1,
    "num_timbre_encoder_hidden_layers": 1,
    "num_attention_pooler_hidden_layers": 1,
    "fsq_dim": 16,
    "fsq_input_levels": [8, 5, 5],
}

# kind -> scale settings: alpha = r, alpha = 2r, rsLoRA, other ranks for some modules, where the kind supports them.
_LORA: dict[str, dict[str, Any]] = {
    "alpha = r": {"r": 4, "alpha": 4, "dropout": 0.0},
    "alpha = 2r": {"r": 4, "alpha": 8, "dropout": 0.0},
    "rsLoRA": {"r": 4, "alpha": 6, "dropout": 0.0, "use_rslora": True},
    "rank pattern": {"r": 4, "alpha": 8, "dropout": 0.0, "ranks": {"v_proj": 2, "layers.0.mlp.up_proj": 7}},
}
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "lora": {**_LORA, "PiSSA": {"r": 4, "alpha": 8, "dropout": 0.0, "init": "pissa"}},
    "dora": _LORA,
    "lokr": {
        "alpha = dim": {"linear_dim": 2, "linear_alpha": 2.0, "factor": 4},
        "alpha = 2 dim": {"linear_dim": 2, "linear_alpha": 4.0, "factor": 4},
        "both split": {"linear_dim": 1, "linear_alpha": 2.0, "factor": 4, "decompose_both": True},
        "whole": {},
        "decomposed": {"linear_dim": 2, "linear_alpha": 4.0, "factor": 4, "weight_decompose": True},
    },
    "loha": {
        "alpha = r": {"r": 3, "alpha": 3},
        "alpha = 2r": {"r": 3, "alpha": 6},
        "rank pattern": {"r": 3, "alpha": 6, "ranks": {"v_proj": 2, "layers.0.mlp.up_proj": 5}},
    },
}
_MAGNITUDES = ("lora_magnitude_vector", "dora_scale")
_SIZES_OF_KIND = {"lora": 0.6, "dora": 0.6, "lokr": 0.5, "loha": 0.7}
EVERY = [(kind, setting) for kind in ADAPTERS.names for setting in SETTINGS[kind]]


def write_checkpoint(root: Path, name: str = NAME, **changes: Any) -> Path:
    """The DiT folder of a two-layer 2B model, in the original layout with seeded weights."""
    config = {**DEFAULTS, **_SIZES, **changes, "is_turbo": True, "model_version": "turbo"}
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dit_weights(config, name), folder / "model.safetensors", {"format": "pt"})
    torch.save(torch.zeros(1, 64, 15_000), folder / "silence_latent.pt")
    return folder


def write_checkpoint_of(decoder: AceStepDiT, root: Path) -> Path:
    """A DiT folder with the weights of ``decoder``. All other weights are zero."""
    given = {key: value for key, value in decoder.config.items() if not key.startswith("_")}
    config = {**DEFAULTS, **_SIZES, **given, "is_turbo": True}
    weights = {name: torch.zeros(shape) for name, shape in expected_shapes(config).items()}
    weights |= {f"decoder.{diffusers_to_original(key)}": value for key, value in decoder.state_dict().items()}
    root.mkdir(parents=True)
    (root / "config.json").write_text(json.dumps(config))
    save_torch(weights, root / "model.safetensors", {"format": "pt"})
    torch.save(torch.zeros(1, 64, 15_000), root / "silence_latent.pt")
    return root


def config_of(kind: str, setting: str) -> AdapterConfig:
    return ADAPTERS[kind].config(**SETTINGS[kind][setting])


def train(decoder: nn.Module, kind: str, setting: str, *, train_mlp: bool = True) -> Adapter:
    """Inject an adapter into ``decoder`` that clearly changes its output."""
    adapter = trained(decoder, kind, config_of(kind, setting), train_mlp=train_mlp)
    if SETTINGS[kind][setting].get("init") != "pissa":
        sizes = {key: 1.0 if key.endswith(_MAGNITUDES) else _SIZES_OF_KIND[kind] for key in adapter.state()}
        adapter.load_state({key: sizes[key] * value for key, value in adapter.state().items()})
    return adapter


def make_run(
    checkpoint: Path, folder: Path, kind: str, setting: str, dtype: torch.dtype = torch.float32, train_mlp: bool = True
) -> Tensor:
    """A run folder with a final adapter; returns the output of the trained decoder for ``probe_decoder``."""
    decoder = load_dit(checkpoint)
    adapter = train(decoder, kind, setting, train_mlp=train_mlp)
    card = AdapterMetadata(base_model=checkpoint.name, family="2b", variant="turbo", trigger_word="zyx", steps=9)
    save(adapter, folder / "final" / "adapter", card, dtype)
    return probe_output(decoder)


@torch.no_grad()
def probe_output(decoder: nn.Module) -> Tensor:
    """The output of the decoder for fixed inputs."""
    return probe_decoder(decoder)


def error(found: Tensor, expected: Tensor, base: Tensor) -> float:
    """|found - expected| / |expected - base|"""
    return float((found - expected).norm() / (expected - base).norm())


def load_base(checkpoint: Path) -> AceStepDiT:
    return load_dit(checkpoint)
