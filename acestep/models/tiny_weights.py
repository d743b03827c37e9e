"""Seeded weights of the tiny checkpoint's decoder, encoders and VAE.

Plain random weights can learn nothing through a LoRA of the attention and MLP layers: the decoder's way from
the noisy latents to the velocity has to be there already, as it is in a trained model.
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
    """Normal numbers that depend on the name and the shape alone."""
    generator = np.random.default_rng([_SEED, zlib.crc32(name.encode())])
    return np.float32(std) * generator.standard_normal(shape, dtype=np.float32)


def dit_weights(config: Mapping[str, Any], seed: str) -> dict[str, Array]:
    """Every weight of a checkpoint with this configuration, under its original name."""
    weights = {name: _plain(f"{seed} {name}", shape) for name, shape in expected_shapes(config).items()}
    _open_the_way(weights, config, seed)
    return weights


def _plain(name: str, shape: tuple[int, ...]) -> Array:
    """What an untrained network of this kind would hold."""
    part = name.rsplit(".", 1)[0]
    if part.endswith(("norm", "norm_out")):
        return np.ones(shape, np.float32)
    if name.endswith("bias"):
        return random_normal(name, shape, 0.02)
    if name.endswith("scale_shift_table"):
        return random_normal(name, shape, 0.05)
    if name.endswith(("special_token", "special_tokens", "null_condition_emb")):
        return random_normal(name, shape)
    return random_normal(name, shape, float(np.prod(shape[1:])) ** -0.5)


def _open_the_way(weights: dict[str, Array], config: Mapping[str, Any], seed: str) -> None:
    """Let the noisy latents pass through the decoder: its untrained answer is the latents, brought to unit size.

    A LoRA can change that answer only in few directions at a time, which is enough to learn what a handful
    of songs have in common; it could not build the way itself.
    """
    width, channels, patch = config["hidden_size"], config["audio_acoustic_hidden_dim"], config["patch_size"]
    directions = random_normal(f"{seed} way", (width, channels * patch)).astype(np.float64)
    way = np.linalg.qr(directions)[0].astype(np.float32).reshape(width, channels, patch)
    weights["decoder.proj_in.1.weight"] *= np.float32(0.1)
    weights["decoder.proj_in.1.weight"][:, -channels:] = way  # the latents come after the context
    weights["decoder.proj_out.1.weight"] = way * np.float32((channels * patch / width) ** 0.5)
    for index in range(config["num_hidden_layers"]):
        layer = f"decoder.layers.{index}."
        for name in ("self_attn.o_proj", "cross_attn.o_proj", "mlp.down_proj"):
            weights[f"{layer}{name}.weight"] *= np.float32(0.15)
        weights[f"{layer}scale_shift_table"][0, [2, 5]] += np.float32(1.0)  # the gates of attention and MLP stand open
    for name in ("time_embed", "time_embed_r"):
        weights[f"decoder.{name}.time_proj.weight"] *= np.float32(0.5)


def vae_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Weights for an Oobleck VAE's names and shapes, weight normalised as it is stored.

    The encoder acts as a bank of rectifying filters whose outputs are smoothed on the way down, so that the
    latents follow what is heard, as a trained encoder's do. Silence gives a constant.
    """
    weights = {name: _vae_weight(name, shape) for name, shape in shapes.items() if not name.endswith("weight_g")}
    for name, shape in shapes.items():
        if name.endswith("weight_g"):
            weights[name] = _gain(name, shape, weights[name.removesuffix("g") + "v"])
    latent = shapes["encoder.conv2.bias"][0] // 2
    weights["encoder.conv2.weight_g"][latent:] = 0.0
    weights["encoder.conv2.bias"] = random_normal("encoder.conv2.bias", (2 * latent,), 0.3)
    weights["encoder.conv2.bias"][latent:] = -6.0  # softplus gives the posterior a deviation of 0.0026
    return weights


def _vae_weight(name: str, shape: tuple[int, ...]) -> Array:
    if not name.endswith("weight_v"):
        return np.zeros(shape, np.float32)  # biases; alpha and beta are logarithms
    if _downsamples(name):
        return random_normal(name, (*shape[:2], 1)) * _window(shape[2])
    return random_normal(name, shape)


def _gain(name: str, shape: tuple[int, ...], kernel: Array) -> Array:
    """The norm of each kernel of a weight-normalised layer."""
    if name == "encoder.conv1.weight_g":
        return np.exp(random_normal(name, shape, 0.7)) * np.float32(4.0)
    if "res_unit" in name:
        gain = 0.3
    elif _downsamples(name):
        window = _window(kernel.shape[2])
        gain = float(np.linalg.norm(window) / window.sum())  # what changes slowly keeps its size
    elif "conv_t" in name:
        gain = (kernel.shape[2] / 2) ** 0.5  # two kernels overlap at each sample: loudness is kept
    else:
        gain = {"encoder.conv2.weight_g": 1.4, "decoder.conv2.weight_g": 0.08}.get(name, 1.0)
    return np.full(shape, gain, np.float32)


def _downsamples(name: str) -> bool:
    return name.startswith("encoder.block.") and "res_unit" not in name


def _window(length: int) -> Array:
    """A Hann window without its zeros."""
    return (np.sin(np.pi * np.arange(1, length + 1) / (length + 1)) ** 2).astype(np.float32)
