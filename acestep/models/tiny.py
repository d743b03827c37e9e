"""Create tiny checkpoints: the real architectures with small layers and deterministic random weights.

A tiny checkpoint has the original layout and works with the same loaders as real models. It is created in seconds
and used by the demo and the tests. Two differences to the real models reduce computation further: the first layer of
the VAE downsamples to 4.8 kHz (the downsampling ratios are in reverse order), and there are 200 audio codes instead of
64,000.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
from safetensors import safe_open
from safetensors.numpy import save
from torch import Tensor

from acestep.core.errors import CheckpointError
from acestep.core.files import read_json, replace_folder, write_bytes, write_json, write_versioned
from acestep.models.checkpoint import SILENCE_FILE
from acestep.models.tiny_text import write_language_model, write_text_encoder
from acestep.models.tiny_weights import dit_weights, vae_weights
from acestep.models.weight_shapes import DEFAULTS

Variant = Literal["turbo", "base", "xl-base"]

_VAE_FILE = "diffusion_pytorch_model.safetensors"
_MARKER = "tiny.json"  # identifies folders that this module created
_VERSION = 1
_NAMES: dict[Variant, str] = {
    "turbo": "acestep-v15-tiny",
    "base": "acestep-v15-tiny-base",
    "xl-base": "acestep-v15-tiny-xl-base",
}
_SILENCE_FRAMES = 15_000  # ten minutes, as in the real checkpoints
_TEXT_WIDTH = 32

SIZES: dict[str, Any] = {
    "hidden_size": 160,
    "intermediate_size": 320,
    "num_hidden_layers": 4,
    "num_attention_heads": 5,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "text_hidden_dim": _TEXT_WIDTH,
    "num_lyric_encoder_hidden_layers": 2,
    "num_timbre_encoder_hidden_layers": 2,
    "num_attention_pooler_hidden_layers": 2,
    "fsq_dim": 160,
    "fsq_input_levels": [8, 5, 5],
}
_XL_SIZES: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 384,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "encoder_hidden_size": 160,
    "encoder_intermediate_size": 320,
    "encoder_num_attention_heads": 5,
    "encoder_num_key_value_heads": 1,
}
_VAE: dict[str, Any] = {
    "encoder_hidden_size": 128,
    "downsampling_ratios": [10, 6, 4, 4, 2],
    "channel_multiples": [1, 1, 1, 1, 1],
    "decoder_channels": 16,
    "decoder_input_channels": 64,
    "audio_channels": 2,
    "sampling_rate": 48_000,
}


def create_tiny_checkpoint(root: Path, variant: Variant = "turbo") -> Path:
    """Write a tiny checkpoint, a VAE, a text encoder and a 5 Hz LM into ``root``. Existing complete ones are kept.

    Returns:
        The checkpoint folder, an input of ``find_checkpoint`` and every ``load_*`` function.

    Raises:
        CheckpointError: unknown variant, or a folder of the same name contains another model.
        StorageError: the files cannot be written.
    """
    if variant not in get_args(Variant):
        raise CheckpointError(f"unknown tiny variant {variant!r}", hint=f"Known: {', '.join(get_args(Variant))}.")
    root, name = Path(root), _NAMES[variant]
    _write_once(root / "vae", "vae", _write_vae)
    _write_once(root / "Qwen3-Embedding-0.6B", "text encoder", lambda folder: write_text_encoder(folder, _TEXT_WIDTH))
    _write_once(root / "acestep-5Hz-lm-tiny", "5Hz LM", lambda folder: write_language_model(folder, _TEXT_WIDTH))

    def write_dit(folder: Path) -> None:
        config = _config(variant)
        write_json(folder / "config.json", config)
        write_bytes(folder / "model.safetensors", save(dit_weights(config, variant), {"format": "pt"}))
        write_bytes(folder / SILENCE_FILE, _torch_bytes(_silence(root)))

    _write_once(root / name, variant, write_dit)
    return root / name


def _write_once(folder: Path, description: str, write: Callable[[Path], None]) -> None:
    """Write ``folder`` atomically, unless an earlier call wrote it and all files still have their sizes."""
    marker = folder / _MARKER
    if marker.is_file():
        content = read_json(marker, error=CheckpointError)
        if content == {"kind": "tiny model", "version": _VERSION, "what": description, "bytes": _file_sizes(folder)}:
            return
    elif folder.exists() and any(folder.iterdir()):
        raise CheckpointError(
            f"{folder} contains another model; nothing was written", hint="Use an empty folder for the tiny checkpoint."
        )
    with replace_folder(folder) as staging:
        write(staging)
        write_versioned(staging / _MARKER, "tiny model", _VERSION, {"what": description, "bytes": _file_sizes(staging)})


def _file_sizes(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != _MARKER}


def _config(variant: Variant) -> dict[str, Any]:
    """Return the config.json of the original layout."""
    turbo = variant == "turbo"
    config = {**DEFAULTS, **SIZES, **(_XL_SIZES if variant == "xl-base" else {})}
    if variant != "xl-base":
        del config["encoder_hidden_size"]
    layer_types = ("sliding_attention", "full_attention")
    return {
        "architectures": ["AceStepConditionGenerationModel"],
        "model_type": "acestep",
        **config,
        "layer_types": [layer_types[index % 2] for index in range(config["num_hidden_layers"])],
        "use_sliding_window": True,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "data_proportion": 0.5,
        "vocab_size": 64003,
        "is_turbo": turbo,
        "model_version": "turbo" if turbo else "base",
        "dtype": "float32",
    }


def _write_vae(folder: Path) -> None:
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*weight_norm")  # diffusers 0.42.1
        vae = AutoencoderOobleck(**_VAE)
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    write_json(folder / "config.json", {"_class_name": "AutoencoderOobleck", **_VAE})
    weights = save(vae_weights(shapes), {"format": "pt"})
    write_bytes(folder / _VAE_FILE, weights)


def _silence(root: Path) -> Tensor:
    """Return the latents [1, C, F] of silence: in every frame the bias of the last layer of the tiny VAE's encoder."""
    with safe_open(root / "vae" / _VAE_FILE, framework="pt") as weights:
        bias: Tensor = weights.get_tensor("encoder.conv2.bias")
    mean = bias[: len(bias) // 2]
    return mean[None, :, None].repeat(1, 1, _SILENCE_FRAMES)


def _torch_bytes(latent: Tensor) -> bytes:
    file = io.BytesIO()  # torch.save to a path writes the file name into the archive
    torch.save(latent, file)
    return file.getvalue()
