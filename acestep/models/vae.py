"""Encode audio to latents and decode latents to audio, in tiles that bound the memory for long audio."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution
from torch import Tensor

from acestep.core.errors import AudioError


@torch.no_grad()
def encode_audio(vae: Any, audio: Tensor, *, seed: int) -> Tensor:
    """Encode [2, S] audio at 48 kHz to latents [T, C], 25 frames per second, float32 on the CPU.

    Audio longer than 30 s is encoded in tiles of 30 s. Tiles overlap by 2 s on each side and the overlap is
    discarded (``AutoencoderOobleck`` tiling, which ``load_vae`` enables). An incomplete last frame is dropped.

    Args:
        seed: seed of the sample from the posterior.

    Raises:
        AudioError: the audio is shorter than one latent frame, 0.04 s.
    """
    num_frames = audio.shape[-1] // vae.hop_length
    if num_frames == 0:
        raise AudioError(
            f"{audio.shape[-1]} audio samples are fewer than one latent frame", hint="Use audio of at least one second."
        )
    # Only complete frames: with an incomplete one, tiled encoding loses a frame (diffusers 0.42.1).
    trimmed = audio[None, :, : num_frames * vae.hop_length].to(vae.device, vae.dtype)
    parameters: Tensor = vae.encode(trimmed).latent_dist.parameters
    posterior = OobleckDiagonalGaussianDistribution(parameters.float().cpu())
    latents: Tensor = posterior.sample(torch.Generator("cpu").manual_seed(seed))
    return latents[0].T.contiguous()


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """Decode latents [T, C] to audio [2, S], float32 on the CPU, in tiles of 512 frames with an overlap of 64."""
    audio: Tensor = vae.decode(latents.T[None].to(vae.device, vae.dtype)).sample
    return audio[0].float().cpu()
