"""The tiles in which the VAE computes, from its receptive field. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

TILE_FRAMES = 128
"""Latent frames of a tile, 5 s. The memory of decoding grows with it; 9 frames on each side overlap."""

_UNIT_REACH = 3 * (1 + 3 + 9)  # the three convolutions of 7 in each block, with dilations 1, 3 and 9


def decoder_reach(upsampling_ratios: Sequence[int]) -> int:
    """Latent frames on each side of a frame that its audio depends on.

    The kernels of ``OobleckDecoder`` (diffusers 0.42.1, autoencoder_oobleck.py), from the audio back to the latents:
    a convolution of 7; in each block three of 7 with dilations 1, 3 and 9, and a transposed one of twice the
    ratio, which takes up to two frames; a convolution of 7.
    """
    reach = 3
    for ratio in reversed(upsampling_ratios):
        reach += _UNIT_REACH
        reach = (reach + (ratio + 1) // 2) // ratio + 1
    return reach + 3


def decoder_tiles(upsampling_ratios: Sequence[int]) -> tuple[int, int]:
    """Frames of a tile, and of its overlap on each side, with which tiled decoding equals decoding at once."""
    overlap = decoder_reach(upsampling_ratios)
    return max(TILE_FRAMES, 4 * overlap), overlap


def block_reach(ratio: int) -> int:
    """Input samples of an encoder block on each side of those of an output sample that it depends on.

    In ``OobleckEncoderBlock`` (diffusers 0.42.1, autoencoder_oobleck.py), a convolution of twice the ratio with half a
    ratio of padding follows the convolutions of 7.
    """
    return _UNIT_REACH + (ratio + 1) // 2


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of the audio: ``first`` to ``last`` is encoded, and what is outside of the core is discarded."""

    first: int
    core_start: int
    core_end: int
    last: int

    @property
    def length(self) -> int:
        return self.last - self.first

    @property
    def core_length(self) -> int:
        return self.core_end - self.core_start


def encoder_tiles(length: int, core: int, overlap: int) -> list[Tile]:
    """Divide ``length`` samples into cores of ``core``, with ``overlap`` more on each side where there is audio."""
    starts = range(0, length, core)
    ends = [min(start + core, length) for start in starts]
    return [
        Tile(max(start - overlap, 0), start, end, min(end + overlap, length))
        for start, end in zip(starts, ends, strict=True)
    ]
