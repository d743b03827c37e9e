"""Encode audio to latents and decode latents to audio, in tiles that bound the memory for long audio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution
from loguru import logger
from torch import Tensor

from acestep.core.errors import AudioError, GenerationError
from acestep.models import load
from acestep.models.checkpoint import Checkpoint
from acestep.models.device import encoder_dtype, not_finite_hint
from acestep.models.mps import choose_vae_device
from acestep.models.vae_encoder import TileBatch, encode_tiles


def load_vae_beside(checkpoint: Checkpoint, *, device: torch.device | str, dtype: torch.dtype) -> Any:
    """Load the VAE beside a decoder on ``device`` in ``dtype``: on the CPU and in fp32 where it needs that.

    Raises CheckpointError.
    """
    selection = choose_vae_device(str(device))
    if selection.value != str(device):
        logger.warning("VAE on {}: {}", selection.value, selection.reason)
        dtype = torch.float32
    return load.load_vae(checkpoint, device=selection.value, dtype=encoder_dtype(dtype))


@torch.no_grad()
def encode_audio(
    vae: Any,
    audio: Tensor,
    *,
    seed: int,
    batch: TileBatch | None = None,
    stop_if_cancelled: Callable[[], None] = lambda: None,
) -> Tensor:
    """Encode [2, S] audio at 48 kHz to latents [T, C], 25 frames per second, float32 on the CPU.

    Audio longer than 30 s is encoded in tiles of 30 s. Tiles overlap by 2 s on each side and the overlap is
    discarded, as in ``vae.encode``, whose result this equals up to rounding. An incomplete last frame is dropped.

    Args:
        seed: seed of the sample from the posterior.
        batch: the number of tiles to encode at once, which adapts to the memory; pass the same object for each song.
        stop_if_cancelled: called several times in each tile; raises an error to stop.

    Raises:
        AudioError: the audio is shorter than one latent frame, 0.04 s.
        torch.OutOfMemoryError: a single tile does not fit.
    """
    num_frames = audio.shape[-1] // vae.hop_length
    if num_frames == 0:
        raise AudioError(
            f"{audio.shape[-1]} audio samples are fewer than one latent frame", hint="Use audio of at least one second."
        )
    trimmed = audio[:, : num_frames * vae.hop_length].to(vae.device, vae.dtype)
    parameters = encode_tiles(vae, trimmed, batch or TileBatch(), stop_if_cancelled)
    posterior = OobleckDiagonalGaussianDistribution(parameters[None].float().cpu())
    latents: Tensor = posterior.sample(torch.Generator("cpu").manual_seed(seed))
    return latents[0].T.contiguous()


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Decode latents [T, C] to audio [2, S], float32 on the CPU, in tiles of 5 s (vae_tiles.py).

    Raises GenerationError if the audio contains NaN or infinite values.
    """
    audio: Tensor = vae.decode(latents.T[None].to(vae.device, vae.dtype)).sample
    return require_finite(audio[0].cpu().float(), "audio", vae.dtype)


def require_finite(generated: Tensor, what: str, dtype: torch.dtype) -> Tensor:
    """Return ``generated``, computed in ``dtype``. Raises GenerationError if it contains NaN or infinite values."""
    if torch.isfinite(generated).all():
        return generated
    fp32 = "fp32: --dtype fp32 of generate, mixed_precision fp32 of a run"
    others = "Try the base model without an adapter, and the adapter of an earlier epoch."
    raise GenerationError(
        f"the generated {what} contains NaN or infinite values, computed in {str(dtype).removeprefix('torch.')}",
        hint=not_finite_hint(dtype, fp32, others),
    )
