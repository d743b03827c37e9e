from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderOobleck
from torch import Tensor

from acestep.core.errors import AudioError
from acestep.models import load_vae, vae_encoder
from acestep.models.vae import decode_latents, encode_audio
from acestep.models.vae_encoder import TileBatch, encode_tile
from acestep.models.vae_tiles import Tile, decoder_reach, decoder_tiles
from tests.songs import SAMPLE_RATE_HZ, sine_song


@pytest.fixture(scope="module")
def narrow_vae() -> AutoencoderOobleck:
    """The sample rate and ratios of the tiny model with 8 channels. Tiles of 4 s of audio overlap by 1.2 s."""
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


def test_encoding_in_chunks_equals_encoding_at_once(
    narrow_vae: AutoencoderOobleck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vae_encoder, "CHUNK_BYTES", 1)
    monkeypatch.setattr(vae_encoder, "MIN_CHUNK", 400)
    audio = torch.randn(2, 2, 40 * 1920, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(encode_tile(narrow_vae.encoder, audio), narrow_vae.encoder(audio), atol=1e-6, rtol=0)


def test_as_many_tiles_are_encoded_at_once_as_fit_the_memory_that_was_free_at_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = [9 * 2**30, 0]  # then PyTorch holds it
    monkeypatch.setattr(vae_encoder, "memory_free_bytes", lambda device: free.pop(0))
    monkeypatch.setattr(vae_encoder, "empty_cache", lambda device: None)
    encoder = SimpleNamespace(conv1=SimpleNamespace(out_channels=128))
    gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.bfloat16, encoder=encoder)
    tile, batch = Tile(0, 0, 30 * SAMPLE_RATE_HZ, 30 * SAMPLE_RATE_HZ), TileBatch()
    assert [batch.size(gpu, tile), batch.size(gpu, tile)] == [4, 4]
    batch.halve(4)
    assert batch.size(gpu, tile) == 2
    assert batch.size(SimpleNamespace(device=torch.device("cpu")), tile) == 1


class FourTiles(TileBatch):
    """As on a GPU whose free memory fits four tiles."""

    def size(self, vae: object, tile: Tile) -> int:
        return min(4, self._limit or 4)


def test_out_of_memory_halves_the_tiles_of_a_batch_for_this_and_later_songs(
    narrow_vae: AutoencoderOobleck, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def scarce(encoder: object, windows: Tensor, stop_if_cancelled: object) -> Tensor:
        sizes.append(len(windows))
        if len(windows) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return encode_tile(encoder, windows)

    audio, batch = sine_song(9.6, seed=3), FourTiles()
    singly = encode_audio(narrow_vae, audio, seed=5)
    monkeypatch.setattr(vae_encoder, "encode_tile", scarce)
    torch.testing.assert_close(encode_audio(narrow_vae, audio, seed=5, batch=batch), singly, atol=1e-5, rtol=0)
    assert sizes == [1, 4, 2, 2, 1]  # the first and the last tile are shorter than the four between them
    encode_audio(narrow_vae, audio, seed=5, batch=batch)
    assert sizes[5:] == [1, 2, 2, 1]


def test_a_stop_request_ends_encoding_within_the_tile(narrow_vae: AutoencoderOobleck) -> None:
    tiles: list[int] = []

    def stop_if_cancelled() -> None:
        if len(tiles) == 2:
            raise InterruptedError

    hook = narrow_vae.encoder.conv1.register_forward_hook(lambda *_: tiles.append(1))
    with pytest.raises(InterruptedError):
        encode_audio(narrow_vae, sine_song(8.0, seed=3), seed=5, stop_if_cancelled=stop_if_cancelled)
    hook.remove()
    assert len(tiles) == 2


@pytest.mark.parametrize("num_samples", [1920, 1919 * 30, 110 * 1920 + 1000, 110 * 1920 - 1, 125 * 1920])
def test_every_complete_frame_is_encoded_for_any_length(num_samples: int, narrow_vae: AutoencoderOobleck) -> None:
    assert len(encode_audio(narrow_vae, torch.zeros(2, num_samples), seed=0)) == num_samples // 1920


@pytest.mark.parametrize("seed", [0, 1])
def test_tiled_decoding_equals_decoding_at_once(narrow_vae: AutoencoderOobleck, seed: int) -> None:
    narrow_vae.tile_latent_min_length, narrow_vae.tile_latent_overlap = decoder_tiles(narrow_vae.upsampling_ratios)
    latents = torch.randn(300, 4, generator=torch.Generator().manual_seed(seed))
    audio = decode_latents(narrow_vae, latents)
    with torch.no_grad():
        at_once = narrow_vae.decoder(latents.T[None])[0]
    assert audio.shape == (2, 300 * 1920)
    torch.testing.assert_close(audio, at_once, atol=1e-6, rtol=0)


def test_the_loaded_vae_decodes_in_small_tiles_as_at_once(tiny_checkpoint: Path) -> None:
    vae = load_vae(tiny_checkpoint)
    assert (vae.tile_latent_min_length, vae.tile_latent_overlap) == (128, 31)
    latents = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        at_once = vae.decoder(latents.T[None])[0]
    torch.testing.assert_close(decode_latents(vae, latents), at_once, atol=1e-6, rtol=0)


@pytest.mark.parametrize("ratios", [(2, 4, 4, 6, 10), (10, 6, 4, 4, 2), (2, 4, 4, 8, 8)])
def test_the_overlap_of_tiles_is_the_receptive_field_of_the_decoder(ratios: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        vae = AutoencoderOobleck(8, list(ratios), [1] * 5, decoder_channels=2, decoder_input_channels=4)
    latents = torch.randn(1, 4, 81, dtype=torch.float64, requires_grad=True)
    audio = vae.double().decoder(latents)[0]
    reach = 0
    for sample in (40 * vae.hop_length, 41 * vae.hop_length - 1):  # the first and the last of the frame in the middle
        (gradient,) = torch.autograd.grad(audio[:, sample].sum(), latents, retain_graph=True)
        frames = gradient.abs().sum((0, 1)).nonzero().flatten()
        reach = max(reach, 40 - int(frames.min()), int(frames.max()) - 40)
    assert reach <= decoder_reach(vae.upsampling_ratios) <= reach + 1


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
