"""Synthesizes short songs with known tempo and key, for the demo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE_HZ = 48_000
NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
_MAJOR, _MINOR = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)
_PROGRESSION = (0, 4, 5, 3)  # I V vi IV, as scale degrees

Wave = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tune:
    """Parameters of a synthesized song; ``key`` is a note and a mode, such as "A Minor"."""

    bpm: int
    key: str
    seconds: float
    seed: int

    @property
    def caption(self) -> str:
        mood = "bright" if self.key.endswith("Major") else "dark"
        return f"a {mood} chiptune with arpeggios and drums"


def play(tune: Tune) -> Wave:
    """[2, S] float32, peak 0.8: chords, bass, an arpeggio and drums."""
    random = np.random.default_rng(tune.seed)
    total = round(tune.seconds * SAMPLE_RATE_HZ)
    note, mode = tune.key.split()
    scale = _MAJOR if mode == "Major" else _MINOR
    root = 45 + NOTES.index(note)  # MIDI number of the bass note, around A2
    beat = 60 / tune.bpm
    sound = np.zeros((2, total), dtype=np.float32)
    for index in range(int(tune.seconds / beat) + 1):
        start, degree = index * beat, _PROGRESSION[index // 4 % 4]
        chord = [root + 12 + _pitch(scale, degree + step) for step in (0, 2, 4)]
        _add(sound, start, _tone(root - 12 + _pitch(scale, degree), beat * 0.9, decay=2.0), pan=0.5)
        for half in range(2):
            pitch = chord[int(random.integers(3))] + 12
            _add(sound, start + half * beat / 2, 0.6 * _tone(pitch, beat / 2, decay=8.0), pan=0.3 + 0.4 * half)
        if index % 4 == 0:
            for pitch in chord:
                _add(sound, start, 0.3 * _tone(pitch, beat * 4, decay=0.8), pan=0.5)
        _add(sound, start, _kick() if index % 2 == 0 else _snare(random), pan=0.5)
    return np.asarray(0.8 * sound / max(float(np.abs(sound).max()), 1e-6), np.float32)


def _pitch(scale: tuple[int, ...], degree: int) -> int:
    """Semitones above the root of a scale degree, which may exceed an octave."""
    return scale[degree % 7] + 12 * (degree // 7)


def _tone(midi: int, seconds: float, *, decay: float) -> Wave:
    time = _time(seconds)
    phase = 2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * time
    wave = np.sin(phase) + 0.3 * np.sin(2 * phase) + 0.15 * np.sin(3 * phase)
    return np.asarray(0.3 * wave * np.exp(-decay * time) * np.minimum(1, time * 200), np.float32)


def _kick() -> Wave:
    time = _time(0.15)
    sweep = 50 * time + 2 * (1 - np.exp(-30 * time))  # from 110 Hz down to 50 Hz
    return np.asarray(0.8 * np.sin(2 * np.pi * sweep) * np.exp(-20 * time), np.float32)


def _snare(random: np.random.Generator) -> Wave:
    time = _time(0.12)
    return np.asarray(0.4 * random.standard_normal(len(time)) * np.exp(-35 * time), np.float32)


def _time(seconds: float) -> NDArray[np.float64]:
    return np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ


def _add(sound: Wave, start_s: float, wave: Wave, *, pan: float) -> None:
    first = round(start_s * SAMPLE_RATE_HZ)
    wave = wave[: max(0, sound.shape[1] - first)]
    sound[0, first : first + len(wave)] += wave * (1 - pan)
    sound[1, first : first + len(wave)] += wave * pan
