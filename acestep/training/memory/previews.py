"""Estimates the peak memory while a run generates audio previews.

The decoder, adapter and optimizer stay in memory; the batch, gradients and activations are freed. Beside them there is
one model at a time: the text encoder, the condition encoder, none while latents are generated, then the VAE
(evaluation/audio_previews.py). A run that lacks memory for previews logs a warning and continues, so this is
not part of its peak. Importing this module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from acestep.models.vae_tiles import decoder_tiles
from acestep.models.weight_shapes import encoder_sizes, expected_shapes
from acestep.training.memory.activations import CHANNELS, PATCH
from acestep.training.memory.estimate import PROGRAM, SLACK, Estimate, resident
from acestep.training.memory.spec import FRAMES_PER_S, SIZES, MemorySpec

_SIGNALS = 4
"""In the last block of the VAE's decoder (diffusers 0.42.1, autoencoder_oobleck.py): signals of its width that exist
at once beside its input, two of which its activation takes for a moment."""
_AUDIO_CHANNELS = 2
_GUIDED = 2
"""Samples of a batch with classifier-free guidance: with the condition and without it."""


@dataclass(frozen=True, slots=True)
class Companions:
    """The models beside the checkpoint: their parameter counts, and the sizes of the VAE's decoder."""

    text_encoder: int = 595_776_512  # Qwen3-Embedding-0.6B
    vae: int = 168_660_608
    vae_width: int = 128
    vae_ratios: tuple[int, ...] = (10, 6, 4, 4, 2)
    silence_frames: int = 15_000


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes beside what the run keeps in memory: of the model that is loaded, and of temporary buffers."""

    loaded: int
    working: int

    @property
    def total(self) -> int:
        return self.loaded + self.working


def estimate_samples(spec: MemorySpec, duration_s: float, components_root: Companions | None = None) -> Estimate:
    """The peak while previews of this length are generated."""
    peak = max(preview_moments(spec, duration_s, components_root).values(), key=lambda moment: moment.total)
    fixed = {name: size for name, size in resident(spec).items() if name != "batch"}
    program = int(PROGRAM[spec.device] + SLACK[spec.device] * peak.working)
    return Estimate({**fixed, "sampling": peak.loaded, "working": peak.working, "program": program})


def preview_moments(
    spec: MemorySpec, duration_s: float, components_root: Companions | None = None
) -> dict[str, Moment]:
    """The memory of each part of a preview: ``encode``, ``denoise`` and ``decode``."""
    beside, size = components_root or Companions(), encoder_bytes(spec)
    encoder = sum(prod(shape) for name, shape in expected_shapes(spec.config).items() if name.startswith("encoder."))
    condition = size * (beside.silence_frames * CHANNELS + spec.tokens * encoder_sizes(spec.config)["hidden_size"])
    kept = condition if spec.device == "cpu" else 0  # it is kept on the CPU
    return {
        "encode": Moment(size * max(encoder + beside.silence_frames * CHANNELS, beside.text_encoder), _encoding(spec)),
        "denoise": Moment(0, condition + _denoising(spec, duration_s)),
        "decode": Moment(size * beside.vae, kept + _decoding(spec, duration_s, beside)),
    }


def encoder_bytes(spec: MemorySpec) -> int:
    """Bytes of a number of the encoders and the VAE, which compute in fp32 beside a decoder in fp16."""
    return SIZES["fp32" if spec.compute == "fp16" else spec.compute]


def _encoding(spec: MemorySpec) -> int:
    """Attention of the timbre encoder or of the lyric encoder, the longer of both: weights in fp32, mask, states."""
    encoder, size = encoder_sizes(spec.config), encoder_bytes(spec)
    tokens = max(int(spec.config["timbre_fix_frame"]), spec.tokens)
    weights = SIZES["fp32"] * encoder["num_attention_heads"] * tokens**2
    return weights + size * (tokens**2 + 3 * tokens * encoder["hidden_size"])


def _denoising(spec: MemorySpec, duration_s: float) -> int:
    """The MLP of a block: three signals of its width and four of the hidden size; casts of the adapter; latents."""
    samples = 1 if spec.config.get("is_turbo") else _GUIDED
    frames = round(duration_s * FRAMES_PER_S)
    hidden, mlp, size = int(spec.config["hidden_size"]), int(spec.config["intermediate_size"]), SIZES[spec.compute]
    patches = samples * ceil(frames / PATCH)
    block = patches * (3 * mlp + 4 * hidden) + samples * spec.tokens * hidden
    casts = resident(spec)["adapter"] * size // SIZES["fp32"] if size < SIZES["fp32"] else 0
    latents = encoder_bytes(spec) * CHANNELS * (frames * (2 + 3 * samples) + int(spec.config["timbre_fix_frame"]))
    return size * block + casts + latents


def _decoding(spec: MemorySpec, duration_s: float, beside: Companions) -> int:
    """The last block of the VAE's decoder for one tile, and the audio of the tiles before it."""
    tile, overlap = decoder_tiles(beside.vae_ratios)
    frames = round(duration_s * FRAMES_PER_S)
    before = max(0, ceil(frames / (tile - 2 * overlap)) - 2) * tile if frames > tile else 0
    samples_per_frame = prod(beside.vae_ratios)
    block = min(frames, tile) * samples_per_frame * beside.vae_width * (_SIGNALS + 1 / beside.vae_ratios[-1])
    return int(encoder_bytes(spec) * (block + before * samples_per_frame * _AUDIO_CHANNELS))
