"""How loud music is (ITU-R BS.1770-4), and bringing songs to one level. Does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from acestep.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

NORMALIZATIONS = ("none", "peak", "lufs", "peak_lufs")

TARGET_LUFS = -14.0
_PEAK = 10 ** (-1 / 20)  # -1 dBFS
_FULL_SCALE = 1.0
_NO_PEAK = 1e-8

# K-weighting at 48 kHz, BS.1770-4 tables 1 and 2: the effect of the head, then a high-pass. Rows are b0 b1 b2 a0 a1 a2.
_K_WEIGHTING = (
    (1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585),
    (1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621),
)
_OFFSET = -0.691  # makes a sine of 997 Hz at full scale in one channel -3.01 LUFS
_HOP = 4800  # samples: a block of 400 ms begins every 100 ms
_HOPS_A_BLOCK = 4
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0


def integrated_loudness(audio: Tensor) -> float:
    """Loudness in LUFS of [C, S] at 48 kHz, gated twice; minus infinity for silence.

    What is shorter than one block of 400 ms is measured as a whole. Each channel counts fully, as left and right do.
    """
    return loudness_of_samples(audio.detach().cpu().numpy())


def loudness_of_samples(samples: np.ndarray) -> float:
    """The same, where the samples are not in a tensor."""
    power = _block_power(samples)
    power = power[power > _power(_ABSOLUTE_GATE_LUFS)]
    if not power.size:
        return float("-inf")
    power = power[power > power.mean() * 10 ** (_RELATIVE_GATE_LU / 10)]
    return float(_OFFSET + 10 * np.log10(power.mean()))


def normalize(audio: Tensor, mode: str) -> Tensor:
    """[C, S] at the level of ``mode``; one gain for the whole song, so its dynamics stay.

    - ``none``: untouched.
    - ``peak``: the highest sample at -1 dBFS.
    - ``lufs``: -14 LUFS; less where the peak would pass full scale.
    - ``peak_lufs``: -14 LUFS; less where the peak would pass -1 dBFS.

    Silence stays as it is. Raises ConfigError for an unknown mode.
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


def _block_power(samples: np.ndarray) -> np.ndarray:
    """[blocks] mean square of the weighted sound, summed over channels."""
    from scipy.signal import sosfilt

    squared = np.zeros(samples.shape[1])
    if not squared.size:
        return squared
    for channel in samples:
        squared += sosfilt(_K_WEIGHTING, channel.astype(np.float64)) ** 2
    num_hops = len(squared) // _HOP
    if num_hops < _HOPS_A_BLOCK:
        return np.array([squared.mean()])
    hops = squared[: num_hops * _HOP].reshape(num_hops, _HOP).mean(1)
    blocks: np.ndarray = np.convolve(hops, np.full(_HOPS_A_BLOCK, 1 / _HOPS_A_BLOCK), "valid")
    return blocks


def _power(lufs: float) -> float:
    return 10 ** ((lufs - _OFFSET) / 10)
