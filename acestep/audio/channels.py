"""Downmix of any number of channels to stereo."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_HALF = 0.5**0.5  # -3 dB: ITU-R BS.775-3, annex 4

# Gain of each speaker, by FFmpeg's names, in (left, right). The LFE channel is dropped, as players do: it repeats the
# bass.
_LEFT, _RIGHT, _BOTH = (1.0, 0.0), (0.0, 1.0), (_HALF, _HALF)
_GAINS = {
    **dict.fromkeys(("FL", "FLC", "WL", "DL"), _LEFT),
    **dict.fromkeys(("FR", "FRC", "WR", "DR"), _RIGHT),
    **dict.fromkeys(("FC", "TFC"), _BOTH),
    **dict.fromkeys(("BL", "SL", "TFL", "TBL", "TSL"), (_HALF, 0.0)),
    **dict.fromkeys(("BR", "SR", "TFR", "TBR", "TSR"), (0.0, _HALF)),
    **dict.fromkeys(("BC", "TC", "TBC"), (0.5, 0.5)),
    **dict.fromkeys(("LFE", "LFE2"), (0.0, 0.0)),
}

# The order of the channels in WAV and AIFF files, which do not state it.
_WAV_ORDER = {
    3: "FL FR FC",
    4: "FL FR BL BR",
    5: "FL FR FC BL BR",
    6: "FL FR FC LFE BL BR",
    7: "FL FR FC LFE BC SL SR",
    8: "FL FR FC LFE BL BR SL SR",
}


def to_stereo(samples: NDArray[np.float32], speakers: Sequence[str] | None = None) -> NDArray[np.float32]:
    """[2, S] of [S, channels]; ``speakers`` names the channels if the file does.

    Mono is copied to both sides. Surround sound is mixed down by ITU-R BS.775-3: the center and the surround channels
    go to their sides 3 dB lower; a mix above full scale is scaled down. Where the meaning of the channels is unknown,
    the first two are used.
    """
    num_channels = samples.shape[1]
    if num_channels == 1:
        return np.repeat(samples.T, 2, axis=0)
    if num_channels == 2:
        return np.ascontiguousarray(samples.T)
    names = speakers or _WAV_ORDER.get(num_channels, "").split()
    if not names or not _GAINS.keys() >= set(names):
        return np.ascontiguousarray(samples[:, :2].T)
    gains = np.array([_GAINS[name] for name in names], np.float32)  # [channels, 2]
    mixed: NDArray[np.float32] = (samples @ gains).T
    return np.ascontiguousarray(mixed / max(1.0, float(np.abs(mixed).max(initial=0.0))))
