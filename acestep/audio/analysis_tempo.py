"""Tempo and meter from the periodicity of onsets.

The tempo is a peak in the autocorrelation of the onset strength. The choice between it, its half and its double uses
the delay between bass drum and backbeat, the length of the bar, and the number of notes per beat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_RATE = 100  # onset frames per second
_TEMPI = np.geomspace(45, 220, 480)  # BPM
_HIT_S = 0.08  # closer onsets count as one


class Onsets:
    """Onset strength at 100 frames per second, and its autocorrelations.

    Bands are below 180 Hz, up to 2 kHz, and above. ``full`` [T] and ``body`` [T] are autocorrelations over all bands
    and over the lower two, ``slow`` those of smoothed onsets. ``backbeat`` [T] is the correlation between low onsets
    and broadband ones (snare, clap) at each lag. ``hits_hz`` is the number of onsets per second.
    """

    def __init__(self, mono: Array, rate: int) -> None:
        import librosa

        window, hop = int(0.064 * rate), rate // _RATE
        frequencies = np.fft.rfftfreq(window, 1 / rate)
        edges = np.searchsorted(frequencies, [30, *np.geomspace(60, min(7600, 0.47 * rate), 36)])
        edges = np.unique(edges)
        centre = frequencies[edges[:-1]]
        broad = (frequencies > 300) & (frequencies < 3000)
        blocks = [
            (np.add.reduceat(block, edges[:-1], axis=1), np.sqrt(block[:, broad]))
            for block in spectra(mono, window, hop)
        ]
        loud = np.concatenate([bands for bands, _ in blocks])  # [T, bands]
        fine = np.concatenate([noise for _, noise in blocks])  # [T, bins]
        loud = np.log1p(loud * (50 / (np.percentile(loud, 99.5) + 1e-9)))
        borders = [0, *np.searchsorted(centre, (180, 2000)), len(centre)]
        rises = librosa.onset.onset_strength_multi(S=loud.T, lag=2, channels=borders, center=False)[:, 2:]
        bands = np.stack([_without_trend(rise) for rise in rises])
        rise = np.maximum(0, fine[3:] - fine[:-3])
        snare = np.exp(np.log(rise / (np.percentile(rise, 99) + 1e-9) + 0.02).mean(axis=1))
        length = min(len(snare), bands.shape[1])
        bands, snare = bands[:, :length], snare[:length]
        even = bands / (bands.std(axis=1, keepdims=True) + 0.02)
        whole = even[0] + even[1] + 0.4 * even[2]
        self.full = _correlate(whole, whole)
        self.hits_hz = _num_hits(whole) * _RATE / length
        self.body = _correlate(*[even[0] + even[1]] * 2)
        smooth = np.stack([_smooth(band) for band in even])
        self.slow = [_correlate(band, band) for band in (smooth[0] + smooth[1] + 0.4 * smooth[2], *smooth[:2])]
        low = _smooth(bands[0])
        self.backbeat = (_correlate(_smooth(snare), low) + _correlate(low, _smooth(snare))) / 2
        self.regular = bool(bands.std() > 1e-4)


def find_tempo(onsets: Onsets) -> tuple[float | None, float, tuple[float, ...]]:
    """The tempo in BPM, its confidence, and its half and double where they are plausible.

    The prior is log-normal around 112 BPM, as in Ellis, "Beat tracking by dynamic programming" (2007).
    """
    if not onsets.regular:
        return None, 0.0, ()
    beats = 60 / _TEMPI
    comb = np.mean([_at(onsets.full, k * beats) + _at(onsets.body, k * beats) for k in (1, 2, 3, 4)], axis=0)
    score = np.log(np.maximum(comb, 1e-3)) - 0.5 * (np.log2(_TEMPI / 112) / 1.1) ** 2
    octave = score + _backbeat(onsets, beats) + 0.3 * _bar(onsets, beats) - 0.25 * _density(onsets, beats)
    best = float(_TEMPI[int(np.argmax(score))])
    family = [bpm for bpm in (best, best / 2, best * 2) if _TEMPI[0] <= bpm <= _TEMPI[-1]]
    totals = np.array([np.interp(bpm * np.array((0.99, 1, 1.01)), _TEMPI, octave).max() for bpm in family])
    shares = np.exp(2 * (totals - totals.max()))
    shares /= shares.sum()
    chosen = int(np.argmax(totals))
    bpm = _refined(onsets, family[chosen])
    strength = float(np.clip(np.interp(best, _TEMPI, comb) / 1.2, 0, 1))
    others = tuple(round(bpm * other / family[chosen], 1) for other in family if other != family[chosen])
    return round(bpm, 1), round(strength * float(shares[chosen]), 2), others


def _backbeat(onsets: Onsets, beats: Array) -> Array:
    """How well low and broadband onsets alternate from beat to beat; at a wrong octave they coincide."""
    others = [_at(onsets.backbeat, k * beats) for k in (0, 0.5, 2)]
    return np.asarray(_at(onsets.backbeat, beats) - np.mean(others, axis=0))


def _bar(onsets: Onsets, beats: Array) -> Array:
    """How well the pattern repeats after three or four beats, and not after half or twice as many."""
    line = onsets.slow[0]
    whole = [2 * _at(line, n * beats) - _at(line, n * beats / 2) - _at(line, 2 * n * beats) for n in (3, 4)]
    return np.asarray(np.maximum(*whole))


def _density(onsets: Onsets, beats: Array) -> Array:
    """Squared distance, in octaves, of the notes per beat from 2.3: most music moves in eighth notes."""
    return np.asarray(np.log2(max(onsets.hits_hz, 0.1) * beats / 2.3) ** 2)


def _refined(onsets: Onsets, bpm: float) -> float:
    """``bpm`` refined within 1.5 %: the best fit after 4, 8 and 12 beats."""
    tempi = bpm * np.linspace(0.985, 1.015, 61)
    fit = np.sum([_at(onsets.slow[0], k * 60 / tempi) for k in (4, 8, 12)], axis=0)
    return float(tempi[int(np.argmax(fit))])


def find_meter(onsets: Onsets, bpm: float) -> tuple[str, float]:
    """``"6"`` if beats divide into three, else ``"3"`` or ``"4"`` by the period in beats; and the confidence."""
    beat = 60 / bpm
    full = onsets.slow[0]
    triple = float((_at(full, beat / 3) + _at(full, 2 * beat / 3)) / 2 - _at(full, beat / 2))
    if triple > 0.25:  # swing stays below: only the last third of its beat has an onset
        return "6", round(min(1.0, 2 * triple), 2)
    in_three = sum(
        float(_at(line, 3 * beat) + _at(line, 9 * beat) - _at(line, 4 * beat) - _at(line, 8 * beat))
        for line in onsets.slow
    )
    return "3" if in_three > 0.1 else "4", round(min(1.0, abs(in_three - 0.1)), 2)


def spectra(mono: Array, window: int, hop: int) -> Iterator[Array]:
    """STFT magnitudes [frames, bins] in blocks of 500 frames, so that an hour of music fits in memory."""
    import librosa

    shape = np.hanning(window).astype(np.float32)
    num_frames = 1 + (len(mono) - window) // hop
    for start in range(0, num_frames, 500):
        stop = min(start + 500, num_frames)
        part = mono[start * hop : (stop - 1) * hop + window]
        yield np.abs(librosa.stft(part, n_fft=window, hop_length=hop, window=shape, center=False)).T


def _without_trend(line: Array) -> Array:
    """``line`` above its moving average over one second."""
    return np.asarray(np.maximum(0, line - np.convolve(line, np.full(_RATE, 1 / _RATE), "same")))


def _num_hits(line: Array) -> int:
    """Number of local maxima above half a standard deviation."""
    reach = round(_HIT_S * _RATE)
    highest = np.lib.stride_tricks.sliding_window_view(np.pad(line, reach), 2 * reach + 1).max(axis=1)
    return int(((line == highest) & (line > 0.5 * line.std())).sum())


def _smooth(line: Array) -> Array:
    """Smoothed over 50 ms, because musicians do not play exactly in time."""
    bell = np.hanning(7)
    return np.convolve(line, bell / bell.sum(), "same")


def _correlate(first: Array, second: Array) -> Array:
    """Correlation of ``second``, delayed by each lag, with ``first``, in [-1, 1]."""
    first, second = ((line - line.mean()) / (line.std() + 1e-9) for line in (first, second))
    size = len(first)
    spectrum = np.conj(np.fft.rfft(first, 2 * size)) * np.fft.rfft(second, 2 * size)
    product: Array = np.fft.irfft(spectrum)[:size] / np.arange(size, 0, -1)
    return product


def _at(correlation: Array, lag_s: Array | float) -> Array:
    """The interpolated value at a lag in seconds; 0 for lags longer than the song."""
    return np.asarray(np.interp(np.asarray(lag_s) * _RATE, np.arange(len(correlation)), correlation, right=0.0))
