"""Sound to latents and back, in tiles, so that the length of a song does not decide about the memory."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution
from torch import Tensor

from acestep.core.errors import AudioError


@torch.no_grad()
def encode_audio(vae: Any, audio: Tensor, *, seed: int) -> Tensor:
    """[T, C] float32 latents on the CPU of [2, S] sound, 25 frames a second, drawn from the posterior by ``seed``.

    What is longer than 30 s is encoded in windows of 30 s with 2 s of overlap on both sides of an inner
    edge, which is cut away (``load_vae`` switches that on). Samples after the last whole frame are left out.

    Raises:
        AudioError: the sound is shorter than one latent frame, 0.04 s.
    """
    num_frames = audio.shape[-1] // vae.hop_length
    if num_frames == 0:
        raise AudioError(f"{audio.shape[-1]} samples are too few to encode", hint="Use songs of a second or more.")
    # Whole frames only: a part of one at the end makes the tiles' trimming lose a frame (diffusers 0.42.1).
    whole = audio[None, :, : num_frames * vae.hop_length].to(vae.device, vae.dtype)
    parameters: Tensor = vae.encode(whole).latent_dist.parameters
    posterior = OobleckDiagonalGaussianDistribution(parameters.float().cpu())
    latents: Tensor = posterior.sample(torch.Generator("cpu").manual_seed(seed))
    return latents[0].T.contiguous()


@torch.no_grad()
def decode_latents(vae: Any, latents: Tensor) -> Tensor:
    """[2, S] float32 sound on the CPU of [T, C] latents; long ones in tiles of 512 frames with 64 of overlap."""
    sound: Tensor = vae.decode(latents.T[None].to(vae.device, vae.dtype)).sample
    return sound[0].float().cpu()
