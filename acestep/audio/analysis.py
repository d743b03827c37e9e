"""What can be measured in a song without any model: duration, tempo, meter and key.

Tempo and meter are in ``analysis_tempo``. The key is the best of 24 correlations between the pitch classes heard and
the profiles of Krumhansl and Kessler (1982), helped by the bass and by the end. Each value comes with a confidence in
[0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acestep.audio.analysis_tempo import Array, Onsets, find_meter, find_tempo, spectra

MAJOR_KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)

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
    onsets = Onsets(mono, sample_rate_hz)
    bpm, sure, alternatives = find_tempo(onsets)
    meter = find_meter(onsets, bpm) if bpm else ("", 0.0)
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
    for block in spectra(mono, window, hop):
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
