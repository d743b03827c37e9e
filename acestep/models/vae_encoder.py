"""Encodes audio with the encoder of the VAE: long audio in tiles, and on a CPU each tile in chunks that fit its cache.

An activation of a tile of 30 s takes 690 MB in fp32. On a CPU, the system maps and clears such a tensor for each
operation, which takes as long as the convolutions. So a block computes a short time at once there, with an overlap
that covers its receptive field.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from itertools import groupby
from threading import Event
from typing import Any

import torch
from loguru import logger
from torch import Tensor

from acestep.models.device import compute_on_one_thread, empty_cache, memory_free_bytes
from acestep.models.vae_tiles import Tile, block_reach, encoder_tiles

CHUNK_BYTES = 2**20  # half of the level 2 cache of a core
MIN_CHUNK = 4096  # samples: in shorter chunks, the deep blocks would mostly compute their overlap

_POLL_S = 0.1
_LIVE_ACTIVATIONS = 6  # of the size of the first block, with the workspace of its convolutions

Check = Callable[[], None]


class TileBatch:
    """How many tiles are encoded at once: as many as fit the free memory of a GPU, on other devices one.

    A batch changes the rounding on a CPU, and would not be faster there.
    """

    def __init__(self) -> None:
        self._free_bytes: int | None = None  # before the first tile: later, PyTorch holds what it has used
        self._limit: int | None = None  # set when the device was out of memory

    def size(self, vae: Any, tile: Tile) -> int:
        """The number of tiles of the length of ``tile`` to encode at once, at least 1."""
        if vae.device.type not in ("cuda", "xpu"):
            return 1
        if self._free_bytes is None:
            empty_cache(str(vae.device))
            self._free_bytes = memory_free_bytes(str(vae.device)) or 0
        channels = vae.encoder.conv1.out_channels
        fitting: int = self._free_bytes // (_LIVE_ACTIVATIONS * channels * tile.length * vae.dtype.itemsize)
        return max(1, min(fitting, self._limit or fitting))

    def halve(self, size: int) -> None:
        """Encode at most half of ``size`` tiles at once from now on."""
        self._limit = size // 2


def encode_tiles(vae: Any, audio: Tensor, batch: TileBatch, stop_if_cancelled: Check) -> Tensor:
    """Return the parameters of the posterior, [2C, T], of ``audio`` [2, S] on the device of ``vae``.

    The tiles are those of ``AutoencoderOobleck``: what overlaps is discarded.

    Raises:
        torch.OutOfMemoryError: a single tile does not fit.
        Exception: that of ``stop_if_cancelled``, which is called between tiles and between the layers of a tile.
    """
    hop, length, longest = vae.hop_length, audio.shape[-1], vae.tile_sample_min_length
    overlap = vae.tile_sample_overlap
    core = length if length <= longest else longest - 2 * overlap
    parts: list[Tensor] = []
    for _, group in groupby(encoder_tiles(length, core, overlap), key=lambda tile: tile.length):
        tiles = list(group)  # of one length: the first and the last of the song are shorter
        while tiles:
            some = tiles[: batch.size(vae, tiles[0])]
            encoded = _encode_or_none(vae, [audio[:, tile.first : tile.last] for tile in some], stop_if_cancelled)
            if encoded is None:
                batch.halve(len(some))
                empty_cache(str(vae.device))
                continue
            for tile, features in zip(some, encoded, strict=True):
                parts.append(features[:, (tile.core_start - tile.first) // hop :][:, : tile.core_length // hop])
            tiles = tiles[len(some) :]
    return torch.cat(parts, dim=-1)


def _encode_or_none(vae: Any, windows: list[Tensor], stop_if_cancelled: Check) -> Tensor | None:
    """[B, 2C, T] of B windows [2, S]; None if the device has no memory for them, which is an error for one."""
    try:
        return encode_tile(vae.encoder, torch.stack(windows), stop_if_cancelled)
    except torch.OutOfMemoryError:
        if len(windows) == 1:
            raise
    logger.warning("out of memory: the VAE encodes {} tiles at once instead of {}", len(windows) // 2, len(windows))
    return None


def encode_tile(encoder: Any, audio: Tensor, stop_if_cancelled: Check = lambda: None) -> Tensor:
    """What ``encoder`` returns for ``audio`` [B, 2, S]: [B, 2C, T]. S is a multiple of the samples of a frame."""
    hidden: Tensor = encoder.conv1(audio)
    for block in encoder.block:
        hidden = _in_chunks(block, hidden, stop_if_cancelled)
    encoded: Tensor = encoder.conv2(_snake(encoder.snake1, hidden))
    return encoded


def _in_chunks(block: Any, hidden: Tensor, stop_if_cancelled: Check) -> Tensor:
    """The output of a block, [B, D', S / ratio], of [B, D, S]."""
    ratio = block.conv1.stride[0]
    overlap = -(-block_reach(ratio) // ratio)  # in output samples
    chunks = encoder_tiles(hidden.shape[-1] // ratio, _chunk_samples(hidden) // ratio, overlap)

    def encode(chunk: Tile, check: Check) -> Tensor:
        part = _block(block, hidden[..., chunk.first * ratio : chunk.last * ratio], check)
        return part[..., chunk.core_start - chunk.first :][..., : chunk.core_length]

    if hidden.device.type != "cpu" or len(chunks) == 1 or torch.get_num_threads() == 1:
        return torch.cat([encode(chunk, stop_if_cancelled) for chunk in chunks], dim=-1)
    return torch.cat(_in_parallel(encode, chunks, stop_if_cancelled), dim=-1)


def _in_parallel(encode: Callable[[Tile, Check], Tensor], chunks: list[Tile], stop_if_cancelled: Check) -> list[Tensor]:
    """Encode each chunk on one thread, on as many threads as PyTorch uses.

    Several threads in each operation would wait for each other after each one, which is slow beside other programs.
    """
    num_threads, stopped = torch.get_num_threads(), Event()

    def check() -> None:
        if stopped.is_set():
            raise CancelledError

    pool = ThreadPoolExecutor(num_threads, "vae", initializer=compute_on_one_thread, initargs=(num_threads,))
    try:
        futures = [pool.submit(torch.no_grad()(encode), chunk, check) for chunk in chunks]
        while wait(futures, timeout=_POLL_S).not_done:
            stop_if_cancelled()
        return [future.result() for future in futures]
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


def _chunk_samples(hidden: Tensor) -> int:
    if hidden.device.type != "cpu":
        return hidden.shape[-1]
    return max(CHUNK_BYTES // (hidden.shape[0] * hidden.shape[1] * hidden.element_size()), MIN_CHUNK)


def _block(block: Any, hidden: Tensor, check: Check) -> Tensor:
    for unit in (block.res_unit1, block.res_unit2, block.res_unit3):
        check()
        hidden = unit.conv2(_snake(unit.snake2, unit.conv1(_snake(unit.snake1, hidden)))).add_(hidden)
    check()
    downsampled: Tensor = block.conv1(_snake(block.snake1, hidden))
    return downsampled


def _snake(snake: Any, hidden: Tensor) -> Tensor:
    """``Snake1d`` of diffusers with one temporary tensor instead of four."""
    alpha, beta = torch.exp(snake.alpha), torch.exp(snake.beta)
    return (alpha * hidden).sin_().square_().mul_((beta + 1e-9).reciprocal()).add_(hidden)
