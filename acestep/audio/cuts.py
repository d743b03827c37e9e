"""Where to cut a long recording: at exact times, in silence, or at bar lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from acestep.audio.analysis import analyse

Audio = NDArray[np.float32]  # [n, channels]
CutAt = Literal["exact", "silence", "bar"]

MIN_SEGMENT_S = 10.0

_SEARCHED = 0.75  # a pause is searched for after this fraction of the segment
_WINDOW_S = 0.05  # of the loudness in which the quietest point is searched
_BEATS_PER_BAR = {"3": 3, "4": 4, "6": 2}  # 6/8 has two beats of three notes
_MIN_CONFIDENCE = 0.1  # of the tempo; noise gives less
_HOP = 256  # frames of the onset strength
_REACH_S = 0.15  # an onset this close to a computed bar line is the bar line


class Cutter:
    """Chooses the length of each segment of one recording, in order.

    Attributes:
        remark: why the recording is not cut as requested; "" if it is.
    """

    def __init__(self, at: CutAt, sample_rate_hz: int) -> None:
        self._rate_hz, self.remark = sample_rate_hz, ""
        self._bar_s, self._to_bar_line_s = 0.0, 0.0
        methods: dict[CutAt, Callable[[Audio], int]] = {"exact": len, "silence": self._silence, "bar": self._bar}
        self._choose = methods[at]

    def __call__(self, block: Audio) -> int:
        """The number of frames of the next segment. ``block`` begins with it and is as long as it may become."""
        return max(self._choose(block), min(len(block), round(MIN_SEGMENT_S * self._rate_hz)))

    def _silence(self, block: Audio) -> int:
        """The middle of the quietest window in the last part of the block."""
        start, window = round(_SEARCHED * len(block)), round(_WINDOW_S * self._rate_hz)
        power = np.square(block[start:]).mean(axis=1)
        energy = np.cumsum(np.concatenate([[0.0], power]))
        return start + int(np.argmin(energy[window:] - energy[:-window])) + window // 2

    def _bar(self, block: Audio) -> int:
        """The last bar line in the block. Bars are measured in the first block."""
        mono = block.mean(axis=1)
        onsets = _onset_strength(mono, self._rate_hz)
        if not self._bar_s:
            measured = analyse(mono, self._rate_hz)
            if not measured.bpm or measured.bpm_confidence < _MIN_CONFIDENCE:
                self.remark, self._choose = "has no measurable bars and is cut in silence instead", self._silence
                return self._silence(block)
            self._bar_s = 60 / measured.bpm * _BEATS_PER_BAR[measured.timesignature]
            self._to_bar_line_s = self._first_bar_line_s(onsets)
        num_bars = int((len(block) / self._rate_hz - self._to_bar_line_s) / self._bar_s)
        line = (self._to_bar_line_s + num_bars * self._bar_s) * self._rate_hz / _HOP
        near = np.arange(max(0, round(line - self._reach)), min(len(onsets), round(line + self._reach) + 1))
        cut = int(near[np.argmax(onsets[near])] * _HOP) if len(near) else round(line * _HOP)
        self._to_bar_line_s = 0.0  # the next block begins at this bar line
        return min(cut, len(block))

    @property
    def _reach(self) -> float:
        return _REACH_S * self._rate_hz / _HOP

    def _first_bar_line_s(self, onsets: NDArray[Any]) -> float:
        """The phase of the bars: that with the strongest onsets."""
        bar = self._bar_s * self._rate_hz / _HOP
        phases = np.arange(int(bar))
        scores = [onsets[np.arange(phase, len(onsets), bar).astype(int)].mean() for phase in phases]
        return float(phases[int(np.argmax(scores))] * _HOP / self._rate_hz)


def _onset_strength(mono: NDArray[Any], sample_rate_hz: int) -> NDArray[Any]:
    """Onset strength of all bands and, once more, of the bass, which marks the beginning of bars; one value per hop."""
    import librosa

    options: dict[str, Any] = {"y": np.asarray(mono, np.float32), "sr": sample_rate_hz, "hop_length": _HOP}
    whole = librosa.onset.onset_strength(**options)
    bass = librosa.onset.onset_strength(**options, fmax=200, n_mels=8)
    return np.asarray(whole / (whole.std() + 1e-9) + bass / (bass.std() + 1e-9))
