"""What the decoders of audio files have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MIN_DURATION_S = 1.0  # of a usable file
_TOLERANCE_S = 0.1  # a smaller difference between the stated and the decoded length is padding of the encoder


class Stream(Protocol):
    """An open audio file, read sequentially.

    Attributes:
        duration_s: the length of the audio, known without decoding it.
        sample_rate_hz, num_channels: of all blocks, also where the file changes them.
        speakers: the name of each channel as in FFmpeg (FL, FR, FC, LFE ...); None if the file does not state them.
        subtype: the sample format as soundfile names it.
        remarks: what was wrong with the parts read so far; complete when ``read`` has returned a short block.
    """

    duration_s: float
    sample_rate_hz: int
    num_channels: int
    speakers: Sequence[str] | None
    subtype: str
    remarks: list[str]

    def read(self, frames: int) -> NDArray[np.float32]:
        """The next [n, channels]; n < frames only at the end. Raises AudioError if most of the file is damaged."""

    def close(self) -> None: ...


def length_remark(stated_s: float, decoded_s: float) -> str:
    """The remark on a file that does not hold the length that it states; "" if it does."""
    if abs(stated_s - decoded_s) <= _TOLERANCE_S:
        return ""
    cause = "it may be incomplete, or joined from several files"
    return f"holds {decoded_s:.1f} s of audio, all of which is used, but its header indicates {stated_s:.1f} s; {cause}"
