"""Deterministic random weights for the decoder, the encoders and the VAE of the tiny checkpoint.

A LoRA on the attention and MLP layers of a randomly initialized decoder cannot learn anything. The tiny decoder
therefore gets a path from the noisy latents to the predicted velocity, as a trained decoder has.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acestep.models.weight_shapes import expected_shapes

Array = NDArray[np.float32]
Weights = Iterator[tuple[str, Array]]

_SEED = 15


def random_normal(name: str, shape: tuple[int, ...], std: float = 1.0) -> Array:
    """Normally distributed values that depend only on the name and the shape."""
    generator = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
    return np.float32(std) * generator.standard_normal(shape, dtype=np.float32)


def dit_weights(config: Mapping[str, Any], seed: str) -> dict[str, Array]:
    """Return every weight of a checkpoint with this config under its original key."""
    weights = {name: initial_weight(f"{seed} {name}", shape) for name, shape in expected_shapes(config).items()}
    _connect_input_to_output(weights, config, seed)
    return weights


def initial_weight(name: str, shape: tuple[int, ...]) -> Array:
    """The value of a weight at random initialization."""
    module = name.rsplit(".", 1)[0]
    if module.endswith(("norm", "norm_out")):
        return np.ones(shape, np.float32)
    if name.endswith("bias"):
        return random_normal(name, shape, 0.02)
    if name.endswith("scale_shift_table"):
        return random_normal(name, shape, 0.05)
    if name.endswith(("special_token", "special_tokens", "null_condition_emb")):
        return random_normal(name, shape)
    return random_normal(name, shape, float(np.prod(shape[1:])) ** -0.5)


def _connect_input_to_output(weights: dict[str, Array], config: Mapping[str, Any], seed: str) -> None:
    """Make the decoder predict its noisy latents, scaled to unit variance, before any training.

    The input and output projections share a matrix with orthonormal columns. Residual branches are scaled down and
    their gates opened, so a low-rank update changes the prediction enough to learn what a few samples have in common.
    """
    width, channels, patch = config["hidden_size"], config["audio_acoustic_hidden_dim"], config["patch_size"]
    matrix = random_normal(f"{seed} way", (width, channels * patch)).astype(np.float64)
    projection = np.linalg.qr(matrix)[0].astype(np.float32).reshape(width, channels, patch)
    weights["decoder.proj_in.1.weight"] *= np.float32(0.1)
    weights["decoder.proj_in.1.weight"][:, -channels:] = projection  # the latents follow the context
    weights["decoder.proj_out.1.weight"] = projection * np.float32((channels * patch / width) ** 0.5)
    for index in range(config["num_hidden_layers"]):
        layer = f"decoder.layers.{index}."
        for name in ("self_attn.o_proj", "cross_attn.o_proj", "mlp.down_proj"):
            weights[f"{layer}{name}.weight"] *= np.float32(0.15)
        weights[f"{layer}scale_shift_table"][0, [2, 5]] += np.float32(1.0)  # gates of attention and MLP
    for name in ("time_embed", "time_embed_r"):
        weights[f"decoder.{name}.time_proj.weight"] *= np.float32(0.5)


def vae_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Return weights for an Oobleck VAE with weight normalization.

    The encoder is a bank of rectifying filters with smoothed outputs, so latents follow the audio like those of a
    trained encoder. Silence gives constant latents.

    Args:
        shapes: state_dict key -> shape.
    """
    weights = {name: _vae_weight(name, shape) for name, shape in shapes.items() if not name.endswith("weight_g")}
    for name, shape in shapes.items():
        if name.endswith("weight_g"):
            weights[name] = _gain(name, shape, weights[name.removesuffix("g") + "v"])
    latent = shapes["encoder.conv2.bias"][0] // 2
    weights["encoder.conv2.weight_g"][latent:] = 0.0
    weights["encoder.conv2.bias"] = random_normal("encoder.conv2.bias", (2 * latent,), 0.3)
    weights["encoder.conv2.bias"][latent:] = -6.0  # posterior standard deviation of softplus(-6) + 1e-4 = 0.0026
    return weights


def _vae_weight(name: str, shape: tuple[int, ...]) -> Array:
    if not name.endswith("weight_v"):
        return np.zeros(shape, np.float32)  # biases, and the logarithmic alpha and beta of the Snake activation
    if _downsamples(name):
        return random_normal(name, (*shape[:2], 1)) * _window(shape[2])
    return random_normal(name, shape)


def _gain(name: str, shape: tuple[int, ...], kernel: Array) -> Array:
    """``weight_g``, the norm of each kernel of a weight-normalized layer."""
    if name == "encoder.conv1.weight_g":
        return np.exp(random_normal(name, shape, 0.7)) * np.float32(4.0)
    if "res_unit" in name:
        gain = 0.3
    elif _downsamples(name):
        window = _window(kernel.shape[2])
        gain = float(np.linalg.norm(window) / window.sum())  # keeps the amplitude of low frequencies
    elif "conv_t" in name:
        gain = (kernel.shape[2] / 2) ** 0.5  # two kernels overlap at each sample: keeps the loudness
    else:
        gain = {"encoder.conv2.weight_g": 1.4, "decoder.conv2.weight_g": 0.08}.get(name, 1.0)
    return np.full(shape, gain, np.float32)


def _downsamples(name: str) -> bool:
    return name.startswith("encoder.block.") and "res_unit" not in name


def _window(length: int) -> Array:
    """A Hann window without its zero endpoints."""
    return (np.sin(np.pi * np.arange(1, length + 1) / (length + 1)) ** 2).astype(np.float32)
