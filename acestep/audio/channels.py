"""Downmix of any number of channels to stereo."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_HALF = 0.5**0.5  # -3 dB: ITU-R BS.775-3, annex 4

# Gain of each speaker in (left, right). The LFE channel is dropped, as players do: it repeats the bass.
_GAINS = {
    "L": (1.0, 0.0),
    "R": (0.0, 1.0),
    "C": (_HALF, _HALF),
    "Ls": (_HALF, 0.0),
    "Rs": (0.0, _HALF),
    "S": (0.5, 0.5),
    "LFE": (0.0, 0.0),
}

# Speaker of each channel: WAV, FLAC and AIFF share one order, Ogg uses that of Vorbis (RFC 7845, 5.1.1.2).
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

    Mono is copied to both sides. Surround sound (3 to 8 channels) is mixed down by ITU-R BS.775-3: the center and the
    surround channels go to their sides 3 dB lower; a mix above full scale is scaled down. Of more than 8 channels,
    whose order is undefined, the first two are used.
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
