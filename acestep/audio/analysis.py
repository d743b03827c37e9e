"""Signal analysis of a song without a model: duration, tempo, meter and key.

``analysis_tempo`` estimates tempo and meter. The key is the best of 24 correlations between the pitch classes of the
song and the key profiles of Krumhansl and Kessler (1982), weighted by the bass notes and the ending. Every value has a
confidence in [0, 1]. librosa is imported by the first analysis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from acestep.audio.analysis_tempo import Array, Onsets, find_meter, find_tempo, spectra

MAJOR_KEYS = ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B")
MINOR_KEYS = ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")
_MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
_MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)

_SHORTEST_S = 6.0  # shorter audio has too few beats


@dataclass(frozen=True, slots=True)
class Analysis:
    """Results of an analysis. ``bpm`` is None and the strings are empty where no estimate is possible.

    ``bpm_alternatives`` are half and double the tempo, where they are plausible.
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
    """Tempo, key and meter of audio [S] or [channels, S], at any sample rate from 8 kHz."""
    mono = np.asarray(audio, dtype=np.float32)
    mono = mono.mean(axis=0) if mono.ndim == 2 else mono
    mono = mono - mono.mean() if len(mono) else mono
    duration = len(mono) / sample_rate_hz
    if duration < _SHORTEST_S or not float(np.abs(mono).max()) > 1e-5:
        return Analysis(duration_s=duration)
    onsets = Onsets(mono, sample_rate_hz)
    bpm, confidence, alternatives = find_tempo(onsets)
    meter = find_meter(onsets, bpm) if bpm else ("", 0.0)
    return Analysis(duration, bpm, confidence, alternatives, *_key(mono, sample_rate_hz), *meter)


def same_key(first: str, second: str) -> bool:
    """Whether two keys are enharmonically equal, such as ``Db Major`` and ``C# Major``."""
    return first == second or (key_number(first) is not None and key_number(first) == key_number(second))


def key_number(keyscale: str) -> int | None:
    """0-11 for C to B Major, 12-23 for the minor keys; None for anything else."""
    note, _, mode = keyscale.strip().partition(" ")
    pitch = "C D EF G A B".find(note[:1].upper()) if note else -1
    if pitch < 0 or note[1:] not in ("", "#", "b") or mode.lower() not in ("major", "minor"):
        return None
    return (pitch + {"#": 1, "b": -1}.get(note[1:], 0)) % 12 + 12 * (mode.lower() == "minor")


def _key(mono: Array, rate: int) -> tuple[str, float]:
    """The key and its confidence: the margin between the best and the second-best key."""
    notes, bass = _pitch_classes(mono, rate)
    if not notes.sum() > 0:
        return "", 0.0
    mean_notes = notes.mean(axis=0)
    ending_bass, mean_bass = bass[-max(1, len(bass) // 10) :].mean(axis=0), bass.mean(axis=0)
    rolled = [np.roll(profile, pitch) for profile in (_MAJOR, _MINOR) for pitch in range(12)]
    scores = np.array([np.corrcoef(mean_notes, profile)[0, 1] for profile in rolled])
    scores += 0.2 * np.tile(mean_bass / (mean_bass.max() + 1e-9) + ending_bass / (ending_bass.max() + 1e-9), 2)
    best, second = np.argsort(scores)[::-1][:2]
    name = f"{MAJOR_KEYS[best]} Major" if best < 12 else f"{MINOR_KEYS[best - 12]} Minor"
    confidence = float(np.clip((scores[best] - scores[second]) / 0.25, 0, 1)) if np.isfinite(scores).all() else 0.0
    return name, round(confidence, 2)


def _pitch_classes(mono: Array, rate: int) -> tuple[Array, Array]:
    """Pitch-class energy [T, 12] of all notes, and [T, 12] of those below 190 Hz, normalized per frame.

    Only spectral peaks count, refined by a parabola through the log magnitudes (``librosa.piptrack``
    gives the same keys in twice the time). The tuning of the song is subtracted before pitches are rounded.
    """
    import librosa

    window, hop = int(0.512 * rate), int(0.128 * rate)
    low, high = int(50 * window / rate), int(2000 * window / rate)
    frames, hertz, weights, count = [], [], [], 0
    for block in spectra(mono, window, hop):
        left, center, right = (block[:, low + shift : high + shift] for shift in (-1, 0, 1))
        frame, bin_ = np.nonzero(
            (center > left) & (center >= right) & (center > 1e-3 * block.max(axis=1, keepdims=True))
        )
        a, b, c = (np.log(part[frame, bin_] + 1e-9) for part in (left, center, right))
        exact = bin_ + low + np.clip(0.5 * (a - c) / (a - 2 * b + c - 1e-9), -0.5, 0.5)
        hertz.append(exact * rate / window)
        weights.append(np.sqrt(center[frame, bin_]))
        frames.append(frame + count)
        count += len(block)
    time, peaks_hz, weight = np.concatenate(frames), np.concatenate(hertz), np.concatenate(weights)
    pitch = librosa.hz_to_midi(peaks_hz) - librosa.pitch_tuning(peaks_hz)
    nearest = np.round(pitch)
    weight = weight * np.exp(-0.5 * ((pitch - nearest) / 0.18) ** 2)
    classes = (nearest % 12).astype(int)
    notes, bass = np.zeros((count, 12)), np.zeros((count, 12))
    np.add.at(notes, (time, classes), weight)
    is_bass = pitch < 54.5  # 190 Hz
    np.add.at(bass, (time[is_bass], classes[is_bass]), weight[is_bass])
    notes, bass = (part / (part.sum(axis=1, keepdims=True) + 1e-9) for part in (notes, bass))
    return notes, bass
