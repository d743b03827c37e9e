"""Integrated loudness (ITU-R BS.1770-4) and normalization. Importing this does not import torch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from acestep.audio.channels import to_stereo
from acestep.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

NORMALIZATIONS = ("none", "peak", "lufs", "peak_lufs")

TARGET_LUFS = -14.0
_PEAK = 10 ** (-1 / 20)  # -1 dBFS
_FULL_SCALE = 1.0
_NO_PEAK = 1e-8

_SAMPLE_RATE_HZ = 48_000
_HOP = 4800  # samples: blocks of 400 ms start every 100 ms
_BLOCK = 4 * _HOP


def integrated_loudness(audio: Tensor) -> float:
    """Loudness of [C, S] at 48 kHz in LUFS, with both gates of BS.1770-4; minus infinity for silence."""
    return loudness_of_samples(audio.detach().cpu().numpy())


def loudness_of_samples(samples: np.ndarray) -> float:
    """``integrated_loudness`` of a NumPy array [C, S].

    Audio shorter than one block of 400 ms is measured as a single block, and samples after the last whole hop are
    ignored. More than two channels are mixed to stereo first, as when a song is loaded.
    """
    from pyloudnorm import Meter  # imports scipy

    if samples.shape[0] > 2:
        samples = to_stereo(samples.T)
    length = samples.shape[1]
    if not length:
        return float("-inf")
    block_s = min(length, _BLOCK) / _SAMPLE_RATE_HZ
    length -= length % _HOP if length >= _BLOCK else 0
    # "DeMan" computes the filters for any rate by the formulas that reproduce the tables of BS.1770-4 at 48 kHz.
    meter = Meter(_SAMPLE_RATE_HZ, filter_class="DeMan", block_size=block_s)
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mean over no blocks, when all are below the gate
        loudness = float(meter.integrated_loudness(samples[:, :length].T.astype(np.float64)))
    return loudness if np.isfinite(loudness) else float("-inf")


def normalize(audio: Tensor, mode: str) -> Tensor:
    """[C, S] normalized by one gain for the whole song, which keeps its dynamics.

    - ``none``: unchanged.
    - ``peak``: the peak at -1 dBFS.
    - ``lufs``: -14 LUFS, or less if the peak would exceed full scale.
    - ``peak_lufs``: -14 LUFS, or less if the peak would exceed -1 dBFS.

    Silence is returned unchanged. Raises ConfigError for an unknown mode.
    """
    if mode not in NORMALIZATIONS:
        raise ConfigError([f"unknown normalization {mode!r}"], hint=f"Known: {', '.join(NORMALIZATIONS)}.")
    peak = float(audio.abs().max()) if audio.numel() else 0.0
    if mode == "none" or peak < _NO_PEAK:
        return audio
    if mode == "peak":
        return audio * (_PEAK / peak)
    loudness = integrated_loudness(audio)
    if loudness == float("-inf"):
        return audio
    ceiling = _FULL_SCALE if mode == "lufs" else _PEAK
    return audio * min(10 ** ((TARGET_LUFS - loudness) / 20), ceiling / peak)
