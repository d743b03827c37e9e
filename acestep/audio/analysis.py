"""What can be measured in a song without any model: duration, tempo, meter and key.

Tempo is read from the autocorrelation of onsets; whether a beat is not rather half or twice as fast is
decided by the time between the low drum and the backbeat. The key is the best of 24 correlations between
the pitch classes heard and the profiles of Krumhansl and Kessler (1982), helped by the bass and by the end.
Each value comes with a confidence in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAJOR_KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)

_RATE = 100  # onset frames a second
_TEMPI = np.geomspace(45, 220, 480)  # beats a minute
_SHORTEST_S = 6.0  # less holds too few beats


@dataclass(frozen=True, slots=True)
class Analysis:
    """What was measured. ``bpm`` is None and the texts are empty where nothing could be told.

    ``bpm_alternatives`` are the half and the double tempo, as far as a listener could mean them.
    """

    duration_s: float
    bpm: float | None = None
    bpm_confidence: float = 0.0
    bpm_alternatives: tuple[float, ...] = ()
    keyscale: str = ""
    key_confidence: float = 0.0
    timesignature: str = ""
    meter_confidence: float = 0.0


def analyse(audio: Array, sample_rate_hz: int) -> Analysis:
    """Tempo, key and meter of a recording ([S] or [channels, S], any rate from 8 kHz)."""
    mono = np.asarray(audio, dtype=np.float32)
    mono = mono.mean(axis=0) if mono.ndim == 2 else mono
    mono = mono - mono.mean() if len(mono) else mono
    duration = len(mono) / sample_rate_hz
    if duration < _SHORTEST_S or not float(np.abs(mono).max()) > 1e-5:
        return Analysis(duration_s=duration)
    onsets = _Onsets(mono, sample_rate_hz)
    bpm, sure, alternatives = _tempo(onsets)
    meter = _meter(onsets, bpm) if bpm else ("", 0.0)
    return Analysis(duration, bpm, sure, alternatives, *_key(mono, sample_rate_hz), *meter)


def same_key(first: str, second: str) -> bool:
    """Whether two keys sound the same: ``Db Major`` and ``C# Major`` do."""
    return first == second or (key_number(first) is not None and key_number(first) == key_number(second))


def key_number(keyscale: str) -> int | None:
    """0-11 for C to B Major, 12-23 for the minor keys; None for anything else."""
    note, _, mode = keyscale.strip().partition(" ")
    pitch = "C D EF G A B".find(note[:1].upper()) if note else -1
    if pitch < 0 or note[1:] not in ("", "#", "b") or mode.lower() not in ("major", "minor"):
        return None
    return (pitch + {"#": 1, "b": -1}.get(note[1:], 0)) % 12 + 12 * (mode.lower() == "minor")


class _Onsets:
    """How suddenly it gets louder, 100 times a second, and how that repeats.

    ``bands`` [3, T]: below 180 Hz, to 2 kHz, above. ``full``, ``low``, ``mid``: autocorrelations [T].
    ``backbeat`` [T]: how much of a broadband hit (snare, clap) follows a low one after each lag.
    """

    def __init__(self, mono: Array, rate: int) -> None:
        window, hop = int(0.064 * rate), rate // _RATE
        frequencies = np.fft.rfftfreq(window, 1 / rate)
        edges = np.searchsorted(frequencies, [30, *np.geomspace(60, min(7600, 0.47 * rate), 36)])
        edges = np.unique(edges)
        centre = frequencies[edges[:-1]]
        broad = (frequencies > 300) & (frequencies < 3000)
        spectra = [
            (np.add.reduceat(block, edges[:-1], axis=1), np.sqrt(block[:, broad]))
            for block in _spectra(mono, window, hop)
        ]
        loud = np.concatenate([bands for bands, _ in spectra])  # [T, bands]
        fine = np.concatenate([noise for _, noise in spectra])  # [T, bins]
        loud = np.log1p(loud * (50 / (np.percentile(loud, 99.5) + 1e-9)))
        rise = np.maximum(0, loud[2:] - loud[:-2])
        groups = (centre < 180, (centre >= 180) & (centre < 2000), centre >= 2000)
        bands = np.stack([_without_trend(rise[:, group].mean(axis=1)) for group in groups])
        rise = np.maximum(0, fine[3:] - fine[:-3])
        snare = np.exp(np.log(rise / (np.percentile(rise, 99) + 1e-9) + 0.02).mean(axis=1))
        length = min(len(snare), bands.shape[1])
        bands, snare = bands[:, :length], snare[:length]
        even = bands / (bands.std(axis=1, keepdims=True) + 0.02)
        self.full = _correlate(*[even[0] + even[1] + 0.4 * even[2]] * 2)
        self.body = _correlate(*[even[0] + even[1]] * 2)
        smooth = np.stack([_smooth(band) for band in even])
        self.slow = [_correlate(band, band) for band in (smooth[0] + smooth[1] + 0.4 * smooth[2], *smooth[:2])]
        low = _smooth(bands[0])
        self.backbeat = (_correlate(_smooth(snare), low) + _correlate(low, _smooth(snare))) / 2
        self.regular = bool(bands.std() > 1e-4)


def _tempo(onsets: _Onsets) -> tuple[float | None, float, tuple[float, ...]]:
    """Beats a minute, how sure, and the half and double of it that come near.

    The prior is a wide bell around 112 (in octaves), as in Ellis, "Beat tracking by dynamic programming" (2007).
    """
    if not onsets.regular:
        return None, 0.0, ()
    beats = 60 / _TEMPI
    comb = np.mean([_at(onsets.full, k * beats) + _at(onsets.body, k * beats) for k in (1, 2, 3, 4)], axis=0)
    score = np.log(np.maximum(comb, 1e-3)) - 0.5 * (np.log2(_TEMPI / 112) / 1.1) ** 2
    octave = score + _backbeat(onsets, beats) + 0.3 * _bar(onsets, beats)
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


def _backbeat(onsets: _Onsets, beats: Array) -> Array:
    """How well low and broadband hits take turns from beat to beat; a wrong octave puts them on one place."""
    others = [_at(onsets.backbeat, k * beats) for k in (0, 0.5, 2)]
    return np.asarray(_at(onsets.backbeat, beats) - np.mean(others, axis=0))


def _bar(onsets: _Onsets, beats: Array) -> Array:
    """How well the pattern is complete after three or four beats, neither sooner nor later."""
    line = onsets.slow[0]
    whole = [2 * _at(line, n * beats) - _at(line, n * beats / 2) - _at(line, 2 * n * beats) for n in (3, 4)]
    return np.asarray(np.maximum(*whole))


def _refined(onsets: _Onsets, bpm: float) -> float:
    """The tempo, finer than the grid it was found on: it must still fit after 4, 8 and 12 beats."""
    tempi = bpm * np.linspace(0.985, 1.015, 61)
    fit = np.sum([_at(onsets.slow[0], k * 60 / tempi) for k in (4, 8, 12)], axis=0)
    return float(tempi[int(np.argmax(fit))])


def _meter(onsets: _Onsets, bpm: float) -> tuple[str, float]:
    """``"6"`` when the beat falls into three, else ``"3"`` or ``"4"`` by which number of beats comes back."""
    beat = 60 / bpm
    full = onsets.slow[0]
    triple = float((_at(full, beat / 3) + _at(full, 2 * beat / 3)) / 2 - _at(full, beat / 2))
    if triple > 0.25:  # a swung beat stays below: only its last third sounds
        return "6", round(min(1.0, 2 * triple), 2)
    in_three = sum(
        float(_at(line, 3 * beat) + _at(line, 9 * beat) - _at(line, 4 * beat) - _at(line, 8 * beat))
        for line in onsets.slow
    )
    return "3" if in_three > 0.1 else "4", round(min(1.0, abs(in_three - 0.1)), 2)


def _key(mono: Array, rate: int) -> tuple[str, float]:
    """Key and mode, and how far the best is before the second."""
    notes, bass = _pitch_classes(mono, rate)
    if not notes.sum() > 0:
        return "", 0.0
    heard = notes.mean(axis=0)
    ending, low = bass[-max(1, len(bass) // 10) :].mean(axis=0), bass.mean(axis=0)
    rolled = [np.roll(profile, pitch) for profile in (_MAJOR, _MINOR) for pitch in range(12)]
    scores = np.array([np.corrcoef(heard, profile)[0, 1] for profile in rolled])
    scores += 0.2 * np.tile(low / (low.max() + 1e-9) + ending / (ending.max() + 1e-9), 2)
    best, second = np.argsort(scores)[::-1][:2]
    name = f"{MAJOR_KEYS[best]} Major" if best < 12 else f"{MINOR_KEYS[best - 12]} Minor"
    clear = float(np.clip((scores[best] - scores[second]) / 0.25, 0, 1)) if np.isfinite(scores).all() else 0.0
    return name, round(clear, 2)


def _pitch_classes(mono: Array, rate: int) -> tuple[Array, Array]:
    """How loud C to B are, [T, 12] over all notes and [T, 12] below 190 Hz, each frame of equal weight.

    Only peaks of the spectrum count; the tuning of the song is found first, so that flat guitars fit.
    """
    window, hop = int(0.512 * rate), int(0.128 * rate)
    low, high = int(50 * window / rate), int(2000 * window / rate)
    frames, pitches, weights, count = [], [], [], 0
    for block in _spectra(mono, window, hop):
        left, here, right = (block[:, low + shift : high + shift] for shift in (-1, 0, 1))
        frame, bin_ = np.nonzero((here > left) & (here >= right) & (here > 1e-3 * block.max(axis=1, keepdims=True)))
        a, b, c = (np.log(part[frame, bin_] + 1e-9) for part in (left, here, right))
        exact = bin_ + low + np.clip(0.5 * (a - c) / (a - 2 * b + c - 1e-9), -0.5, 0.5)
        pitches.append(12 * np.log2(exact * rate / window / 440) + 69)
        weights.append(np.sqrt(here[frame, bin_]))
        frames.append(frame + count)
        count += len(block)
    time, pitch, weight = np.concatenate(frames), np.concatenate(pitches), np.concatenate(weights)
    pitch = pitch - np.angle((weight * np.exp(2j * np.pi * pitch)).sum()) / (2 * np.pi)
    nearest = np.round(pitch)
    weight = weight * np.exp(-0.5 * ((pitch - nearest) / 0.18) ** 2)
    classes = (nearest % 12).astype(int)
    notes, bass = np.zeros((count, 12)), np.zeros((count, 12))
    np.add.at(notes, (time, classes), weight)
    deep = pitch < 54.5  # 190 Hz
    np.add.at(bass, (time[deep], classes[deep]), weight[deep])
    notes, bass = (part / (part.sum(axis=1, keepdims=True) + 1e-9) for part in (notes, bass))
    return notes, bass


def _spectra(mono: Array, window: int, hop: int) -> Iterator[Array]:
    """Magnitudes [frames, bins], some hundred frames at a time so that an hour of music fits in memory."""
    frames = np.lib.stride_tricks.sliding_window_view(mono, window)[::hop]
    shape = np.hanning(window).astype(np.float32)
    for start in range(0, len(frames), 500):
        yield np.abs(np.fft.rfft(frames[start : start + 500] * shape, axis=1)).astype(np.float32)


def _without_trend(line: Array) -> Array:
    """What stands out of the mean of the second around it."""
    return np.asarray(np.maximum(0, line - np.convolve(line, np.full(_RATE, 1 / _RATE), "same")))


def _smooth(line: Array) -> Array:
    """Blurred over 50 ms: players are not machines."""
    bell = np.hanning(7)
    return np.convolve(line, bell / bell.sum(), "same")


def _correlate(first: Array, second: Array) -> Array:
    """Correlation of ``second`` delayed against ``first``, for each lag, in [-1, 1]."""
    first, second = ((line - line.mean()) / (line.std() + 1e-9) for line in (first, second))
    size = len(first)
    spectrum = np.conj(np.fft.rfft(first, 2 * size)) * np.fft.rfft(second, 2 * size)
    product: Array = np.fft.irfft(spectrum)[:size] / np.arange(size, 0, -1)
    return product


def _at(correlation: Array, lag_s: Array | float) -> Array:
    """The value at a lag in seconds; lags that a short song does not hold give 0."""
    return np.asarray(np.interp(np.asarray(lag_s) * _RATE, np.arange(len(correlation)), correlation, right=0.0))
