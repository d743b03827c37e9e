from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from acestep.core.errors import AudioError
from acestep.models import load_vae
from acestep.models.vae import decode_latents, encode_audio
from tests.songs import SAMPLE_RATE_HZ, sine_song


@pytest.fixture(scope="module")
def narrow_vae() -> AutoencoderOobleck:
    """The real sample rate and ratios with 8 channels. Tiles of 4 s overlap by 1.2 s, more than the receptive field."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        vae = AutoencoderOobleck(
            encoder_hidden_size=8,
            downsampling_ratios=[10, 6, 4, 4, 2],
            channel_multiples=[1] * 5,
            decoder_channels=8,
            decoder_input_channels=4,
            sampling_rate=SAMPLE_RATE_HZ,
        )
    vae.enable_tiling()
    vae.tile_sample_min_length, vae.tile_sample_overlap = 4 * SAMPLE_RATE_HZ, 30 * 1920
    vae.tile_latent_min_length, vae.tile_latent_overlap = 100, 30
    return vae.eval()


@torch.no_grad()
def means(vae: AutoencoderOobleck, audio: Tensor) -> Tensor:
    """Posterior means [T, C] of one encoder call without tiling."""
    parameters: Tensor = vae.encoder(audio[None])[0]
    return parameters[: parameters.shape[0] // 2].T


def test_long_audio_is_encoded_in_tiles_that_overlap_on_both_sides(narrow_vae: AutoencoderOobleck) -> None:
    audio = sine_song(5.0, seed=3)
    kept = [(0, 40), (40, 80), (80, 120), (120, 125)]  # frames; a tile has 30 more at each inner edge
    tiles = [(max(0, first - 30), min(125, last + 30)) for first, last in kept]
    tile_means = []
    for (start, end), (first, last) in zip(tiles, kept, strict=True):
        tile_means.append(means(narrow_vae, audio[:, start * 1920 : end * 1920])[first - start : last - start])
    noise = torch.randn(1, 4, 125, generator=torch.Generator().manual_seed(5))[0].T
    std = (encode_audio(narrow_vae, audio, seed=5) - torch.cat(tile_means)) / noise
    assert std.shape == (125, 4)
    assert std.min() > 0  # the remainder is noise times a positive standard deviation
    torch.testing.assert_close(torch.cat(tile_means), means(narrow_vae, audio), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_samples", [1920, 1919 * 30, 110 * 1920 + 1000, 110 * 1920 - 1, 125 * 1920])
def test_every_complete_frame_is_encoded_for_any_length(num_samples: int, narrow_vae: AutoencoderOobleck) -> None:
    assert len(encode_audio(narrow_vae, torch.zeros(2, num_samples), seed=0)) == num_samples // 1920


def test_tiled_decoding_equals_decoding_at_once(narrow_vae: AutoencoderOobleck) -> None:
    latents = torch.randn(180, 4, generator=torch.Generator().manual_seed(0))
    audio = decode_latents(narrow_vae, latents)
    with torch.no_grad():
        at_once = narrow_vae.decoder(latents.T[None])[0]
    assert audio.shape == (2, 180 * 1920)
    torch.testing.assert_close(audio, at_once, atol=1e-5, rtol=0)


def test_audio_shorter_than_a_frame_is_an_error(narrow_vae: AutoencoderOobleck) -> None:
    with pytest.raises(AudioError, match="1919 audio samples"):
        encode_audio(narrow_vae, torch.zeros(2, 1919), seed=0)


def test_posterior_sampling_depends_only_on_the_seed(narrow_vae: AutoencoderOobleck) -> None:
    audio = sine_song(0.5, seed=1)
    first = encode_audio(narrow_vae, audio, seed=7)
    torch.manual_seed(99)
    assert torch.equal(first, encode_audio(narrow_vae, audio, seed=7))
    assert not torch.equal(first, encode_audio(narrow_vae, audio, seed=8))


def test_load_vae_enables_tiles_of_30_s_with_2_s_overlap(tiny_checkpoint: Path) -> None:
    vae = load_vae(tiny_checkpoint)
    assert vae.use_tiling
    assert (vae.tile_sample_min_length, vae.tile_sample_overlap) == (30 * SAMPLE_RATE_HZ, 2 * SAMPLE_RATE_HZ)
    assert vae.hop_length == 1920
