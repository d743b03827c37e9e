"""Estimates the peak memory while a run generates audio previews, with the encoders and the VAE loaded.

The decoder, adapter and optimizer stay in memory; the batch, gradients and activations are freed. A run that lacks
memory for previews logs a warning and continues, so this is not part of its peak. Importing this module does not
import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from acestep.adapters.memory import FP32
from acestep.models.weight_shapes import expected_shapes
from acestep.training.memory.estimate import PROGRAM, SLACK, Estimate, resident
from acestep.training.memory.spec import FRAMES_PER_S, SIZES, MemorySpec

_TILE_FRAMES = 512  # the VAE decodes longer latents in tiles (models/vae.py)
_SAMPLES_PER_FRAME = 1920
_KEPT, _TAKEN = 2, 2
"""In the last block of the VAE's decoder (diffusers 0.42.1, autoencoder_oobleck.py): signals of its width that are
kept beside its input, and that its activation takes for a moment. On GPUs autocast computes the activation
in fp32."""


@dataclass(frozen=True, slots=True)
class Companions:
    """The models beside the checkpoint: their parameter counts, and the width and stride of the VAE's last block."""

    text_encoder: int = 595_776_512  # Qwen3-Embedding-0.6B
    vae: int = 168_660_608
    vae_width: int = 128
    vae_stride: int = 2
    silence_frames: int = 15_000


def estimate_samples(spec: MemorySpec, duration_s: float, components_root: Companions | None = None) -> Estimate:
    """The peak while previews of this length are generated, which is during VAE decoding."""
    beside, size = components_root or Companions(), SIZES[spec.compute]
    encoder = sum(prod(shape) for name, shape in expected_shapes(spec.config).items() if name.startswith("encoder."))
    silence = beside.silence_frames * 64
    fixed = {name: size for name, size in resident(spec).items() if name != "batch"}
    parts = {
        **fixed,
        "sampling": size * (encoder + silence + beside.text_encoder + beside.vae),
        "working": _decoding(spec, duration_s, beside),
    }
    return Estimate({**parts, "program": int(PROGRAM[spec.device] + SLACK[spec.device] * parts["working"])})


def _decoding(spec: MemorySpec, duration_s: float, beside: Companions) -> int:
    frames, size = min(round(duration_s * FRAMES_PER_S), _TILE_FRAMES), SIZES[spec.compute]
    signal = frames * _SAMPLES_PER_FRAME * beside.vae_width
    taken = size if spec.device == "cpu" else FP32
    return int(signal * ((_KEPT + 1 / beside.vae_stride) * size + _TAKEN * taken))
