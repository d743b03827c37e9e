"""Synthesized songs with known tempo, meter and key, for evaluating the analysis.

Chords follow common progressions of the song's mode; the melody is a random walk over the scale with chord notes on
the first beat. Timing, loudness, tuning, timbre and noise floor vary from song to song.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.synth_styles import STYLES, Style

RATE_HZ = 16_000
NOTES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
KEYS = tuple(f"{note} {mode}" for mode in ("Major", "Minor") for note in NOTES)
_SCALES = {"Major": (0, 2, 4, 5, 7, 9, 11), "Minor": (0, 2, 3, 5, 7, 8, 10)}
_PROGRESSIONS = {
    "Major": ((0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 4, 0), (0, 5, 1, 4), (0, 3, 0, 4)),
    "Minor": ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4), (0, 3, 6, 0), (0, 5, 3, 4)),
}

Wave = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Song:
    """Parameters of a song. ``key`` is a note and a mode; ``seed`` determines everything else."""

    style: str
    bpm: float
    key: str
    seed: int
    seconds: float = 30.0

    @property
    def meter(self) -> str:
        return STYLES[self.style].meter


def songs(per_style: int = 4, seed: int = 1) -> list[Song]:
    """``per_style`` songs of each style, with tempos over the range of the style and all keys equally often."""
    random = np.random.default_rng(seed)
    found, keys = [], list(KEYS)
    for style, spec in STYLES.items():
        for tempo in np.linspace(*spec.tempo, per_style):
            if not keys or len(found) % len(KEYS) == 0:
                keys = [str(key) for key in random.permutation(KEYS)]
            found.append(Song(style, round(float(tempo + random.uniform(-2, 2)), 1), keys.pop(), len(found) + seed))
    return found


def play(song: Song) -> Wave:
    """[S] mono float32 at 16 kHz, peak 0.8."""
    random, style = np.random.default_rng(song.seed), STYLES[song.style]
    bar = 60 / song.bpm * style.beats
    sound = np.zeros(round(song.seconds * RATE_HZ), dtype=np.float32)
    note, mode = song.key.split()
    root = 40 + (NOTES.index(note) - 4) % 12 + random.uniform(-0.25, 0.25)  # E2 to D#3, detuned by up to 25 cents
    band = _Band(sound, style, mode, root, random.uniform(0.2, 0.7), random)
    progression = _PROGRESSIONS[mode][int(random.integers(5))]
    last = int(song.seconds / bar) - 1
    for index in range(last + 2):
        band.play_bar(index * bar + 0.1, bar, 0 if index == last else progression[index % len(progression)])
    sound += random.standard_normal(len(sound)).astype(np.float32) * 10 ** random.uniform(-3.5, -2)
    return (0.8 * sound / np.abs(sound).max()).astype(np.float32)


@dataclass
class _Band:
    """Plays one song. ``root`` is the tonic as a MIDI number, ``line`` the scale degree of the melody."""

    sound: Wave
    style: Style
    mode: str
    root: float
    brightness: float
    random: np.random.Generator
    line: int = 3

    def play_bar(self, start: float, bar: float, degree: int) -> None:
        chord = _chord(self.mode, degree)
        for pattern, drum, level in (
            (self.style.kick, _kick, 0.9),
            (self.style.snare, _snare, 0.6),
            (self.style.hat, _hat, 0.25),
        ):
            for step, loud, _ in _hits(pattern, bar):
                self._put(start + step, drum(self.random), loud * level)
        for step, loud, gap in _hits(self.style.bass, bar):
            walking = self.style.kick.startswith("6.") and step > 0
            pitch = chord[int(self.random.integers(3))] if walking else chord[0]
            self._put(start + step, self._tone(pitch - 12 * (pitch > 7), min(gap, 0.9), 3.0, 0.3), loud * 0.5)
        for step, loud, gap in _hits(self.style.chords, bar):
            for pitch in chord:
                self._put(start + step, self._tone(12 + pitch % 12, min(gap, 2.5), 1.5), loud * 0.22)
        for count, (step, loud, gap) in enumerate(_hits(self.style.arpeggio, bar)):
            pitch = 12 + chord[(0, 1, 2, 1)[count % 4]]
            self._put(start + step, self._tone(pitch, min(2 * gap, 1.5), 3.0), loud * 0.3)
        for step, loud, gap in _hits(self.style.melody, bar):
            if self.random.random() > 0.15:
                self._put(
                    start + step, self._tone(24 + self._next_note(chord, degree, step == 0), gap, 2.0), loud * 0.3
                )

    def _next_note(self, chord: list[int], degree: int, on_chord: bool) -> int:
        """The next scale note of the random walk; on the first beat the nearest chord note."""
        self.line = min(max(self.line + int(self.random.integers(-2, 3)), -2), 9)
        pitch = _SCALES[self.mode][self.line % 7] + 12 * (self.line // 7)
        pitch += self.mode == "Minor" and degree == 4 and self.line % 7 == 6
        near = [note + 12 * octave for note in chord for octave in (-1, 0, 1)]
        return min(near, key=lambda note: abs(note - pitch)) if on_chord else pitch

    def _tone(self, semitones: float, seconds: float, decay: float, brightness: float | None = None) -> Wave:
        return _tone(self.root + semitones, seconds, decay, self.brightness if brightness is None else brightness)

    def _put(self, start: float, wave: Wave, level: float) -> None:
        first = max(0, round((start + self.random.normal(0, 0.004)) * RATE_HZ))
        wave = wave[: max(0, len(self.sound) - first)]
        self.sound[first : first + len(wave)] += wave * np.float32(level * self.random.uniform(0.8, 1.1))


def _chord(mode: str, degree: int) -> list[int]:
    """Semitones above the tonic; the dominant of a minor key is a major chord (harmonic minor)."""
    scale = _SCALES[mode]
    notes = [scale[(degree + step) % 7] + 12 * ((degree + step) // 7) for step in (0, 2, 4)]
    if mode == "Minor" and degree == 4:
        notes[1] += 1
    return notes


def _hits(pattern: str, bar: float) -> list[tuple[float, float, float]]:
    """For each hit: start in seconds after the bar line, loudness in [0, 1], and seconds to the next hit."""
    places = [index for index, mark in enumerate(pattern) if mark != "."]
    step = bar / max(len(pattern), 1)
    ends = [*places[1:], len(pattern)][: len(places)]
    return [(p * step, int(pattern[p]) / 9, (e - p) * step) for p, e in zip(places, ends, strict=True)]


def _tone(midi: float, seconds: float, decay: float, brightness: float) -> Wave:
    time = np.arange(max(int(seconds * RATE_HZ), 1)) / RATE_HZ
    phase = 2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * time
    wave = sum(brightness**k / (k + 1) * np.sin((k + 1) * phase) for k in range(6))
    fade = np.minimum(1, time * 150) * np.minimum(1, (time[-1] - time) * 100 + 0.01)
    return (wave * np.exp(-decay * time) * fade).astype(np.float32)


def _kick(random: np.random.Generator) -> Wave:
    time = np.arange(int(0.18 * RATE_HZ)) / RATE_HZ
    return (np.sin(2 * np.pi * (48 * time + 3 * (1 - np.exp(-35 * time)))) * np.exp(-18 * time)).astype(np.float32)


def _snare(random: np.random.Generator) -> Wave:
    time = np.arange(int(0.15 * RATE_HZ)) / RATE_HZ
    noise = random.standard_normal(len(time)) * 0.5 + 0.5 * np.sin(2 * np.pi * 190 * time)
    return (noise * np.exp(-28 * time)).astype(np.float32)


def _hat(random: np.random.Generator) -> Wave:
    noise = np.diff(random.standard_normal(int(0.06 * RATE_HZ) + 1))
    return (noise * np.exp(-70 * np.arange(len(noise)) / RATE_HZ)).astype(np.float32)
