"""Encodes audio with PyAV, whose wheels contain the encoders."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Encoder:
    """How to write a format: FFmpeg's names of container and codec, and the bit rate."""

    container: str
    codec: str
    bits_per_s: int


# By suffix. Bit rates at which the formats are considered transparent for stereo. Ogg holds Opus.
ENCODERS = {
    ".mp3": Encoder("mp3", "libmp3lame", 320_000),
    ".m4a": Encoder("ipod", "aac", 256_000),
    ".aac": Encoder("adts", "aac", 256_000),
    ".opus": Encoder("opus", "libopus", 256_000),
    ".ogg": Encoder("ogg", "libopus", 256_000),
}


def encode(samples: NDArray[np.float32], sample_rate_hz: int, suffix: str) -> bytes:
    """The content of a file with ``samples`` [channels, S] in [-1, 1], one or two channels."""
    encoder = ENCODERS[suffix]
    layout = "mono" if len(samples) == 1 else "stereo"
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=encoder.container) as container:
        stream: Any = container.add_stream(
            encoder.codec, rate=sample_rate_hz, layout=layout, bit_rate=encoder.bits_per_s
        )
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = sample_rate_hz, Fraction(1, sample_rate_hz), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()
