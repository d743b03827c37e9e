"""Size of the tiles in which the VAE decodes, from its receptive field. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Sequence

TILE_FRAMES = 128
"""Latent frames of a tile, 5 s. The memory of decoding grows with it; 9 frames on each side overlap."""


def decoder_reach(upsampling_ratios: Sequence[int]) -> int:
    """Latent frames on each side of a frame that its audio depends on.

    The kernels of ``OobleckDecoder`` (diffusers 0.42.1, autoencoder_oobleck.py), from the audio back to the latents:
    a convolution of 7; in each block three of 7 with dilations 1, 3 and 9, and a transposed one of twice the
    ratio, which takes up to two frames; a convolution of 7.
    """
    reach = 3
    for ratio in reversed(upsampling_ratios):
        reach += 3 * (1 + 3 + 9)
        reach = (reach + (ratio + 1) // 2) // ratio + 1
    return reach + 3


def decoder_tiles(upsampling_ratios: Sequence[int]) -> tuple[int, int]:
    """Frames of a tile, and of its overlap on each side, with which tiled decoding equals decoding at once."""
    overlap = decoder_reach(upsampling_ratios)
    return max(TILE_FRAMES, 4 * overlap), overlap
