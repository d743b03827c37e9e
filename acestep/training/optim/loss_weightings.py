"""Loss weighting by the timestep of a training example. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Callable

from acestep.core.registry import Entry, Registry

Weighting = Callable[[float, float], float]  # (timestep t in [0, 1], gamma) -> weight

LOSS_WEIGHTS: Registry[Entry[Weighting]] = Registry("loss weighting", Entry)

LOSS_WEIGHTS.register(
    "none",
    target="acestep.training.optim.loss_weightings:no_weight",
    label="None",
    help="All timesteps have the same weight.",
)
LOSS_WEIGHTS.register(
    "min_snr",
    target="acestep.training.optim.loss_weightings:min_snr",
    label="Min-SNR",
    help="Lower weight for timesteps with little noise.",
)

_EDGE = 1e-6  # keeps the signal-to-noise ratio finite and positive at t = 0 and t = 1


def no_weight(t: float, gamma: float) -> float:
    """Weight 1 at every timestep."""
    return 1.0


def min_snr(t: float, gamma: float) -> float:
    """min(SNR, gamma) / SNR with SNR = ((1 - t) / t)^2.  https://arxiv.org/abs/2303.09556"""
    t = min(max(t, _EDGE), 1 - _EDGE)
    snr = ((1 - t) / t) ** 2
    return min(snr, gamma) / max(snr, _EDGE)
