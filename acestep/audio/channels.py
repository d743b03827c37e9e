"""Any number of channels to two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_HALF = 0.5**0.5  # -3 dB: ITU-R BS.775-3, annex 4

# How loud each speaker is in (left, right). Low frequencies are left out, as players do: they double the bass.
_GAINS = {
    "L": (1.0, 0.0),
    "R": (0.0, 1.0),
    "C": (_HALF, _HALF),
    "Ls": (_HALF, 0.0),
    "Rs": (0.0, _HALF),
    "S": (0.5, 0.5),
    "LFE": (0.0, 0.0),
}

# Which speaker each channel is for: WAV, FLAC and AIFF in one order, Ogg in Vorbis' (RFC 7845, 5.1.1.2).
_WAV_ORDER = {
    3: "L R C",
    4: "L R Ls Rs",
    5: "L R C Ls Rs",
    6: "L R C LFE Ls Rs",
    7: "L R C LFE S Ls Rs",
    8: "L R C LFE Ls Rs Ls Rs",
}
_VORBIS_ORDER = {
    3: "L C R",
    4: "L R Ls Rs",
    5: "L C R Ls Rs",
    6: "L C R Ls Rs LFE",
    7: "L C R Ls Rs S LFE",
    8: "L C R Ls Rs Ls Rs LFE",
}


def to_stereo(samples: NDArray[np.float32], *, vorbis_order: bool = False) -> NDArray[np.float32]:
    """[2, S] of [S, channels].

    Mono goes to both sides unchanged. Surround sound (3 to 8 channels) is mixed down as a player does it: the
    centre, where the voice is, and the surround channels 3 dB lower to their sides; if the sum exceeds full scale, all
    of it is turned down. Of more channels than 8 the first two are taken: nothing tells what the others are.
    """
    num_channels = samples.shape[1]
    if num_channels == 1:
        return np.repeat(samples.T, 2, axis=0)
    order = (_VORBIS_ORDER if vorbis_order else _WAV_ORDER).get(num_channels)
    if order is None:
        return np.ascontiguousarray(samples[:, :2].T)
    gains = np.array([_GAINS[speaker] for speaker in order.split()], np.float32)  # [channels, 2]
    mixed: NDArray[np.float32] = (samples @ gains).T
    return np.ascontiguousarray(mixed / max(1.0, float(np.abs(mixed).max(initial=0.0))))
