"""How much a song's loss counts, by its place between music and noise. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Callable

from acestep.core.registry import Registry

LOSS_WEIGHTS: Registry[Callable[[float, float], float]] = Registry("loss weighting")  # (t, gamma) -> weight

_EDGE = 1e-6  # keeps the signal-to-noise ratio finite and above zero at both ends


@LOSS_WEIGHTS.register("none", label="None", help="Every time counts the same.")
def no_weight(t: float, gamma: float) -> float:
    return 1.0


@LOSS_WEIGHTS.register("min_snr", label="Min-SNR", help="Times near the clean music count less.")
def min_snr(t: float, gamma: float) -> float:
    """min(SNR, gamma) / SNR with SNR = ((1 - t) / t)^2.  https://arxiv.org/abs/2303.09556"""
    t = min(max(t, _EDGE), 1 - _EDGE)
    snr = ((1 - t) / t) ** 2
    return min(snr, gamma) / max(snr, _EDGE)
