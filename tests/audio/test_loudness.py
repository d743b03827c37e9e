"""Loudness against the cases of EBU Tech 3341 (table 1, shortened) and BS.1770-4, and normalization."""

import math

import numpy as np
import pytest
import torch

from acestep.audio.channels import to_stereo
from acestep.audio.loudness import NORMALIZATIONS, integrated_loudness, normalize
from acestep.core.errors import ConfigError


def sine(*steps: tuple[float, float], hz: float = 1000.0) -> torch.Tensor:
    """[2, S]: one sine with the given (seconds, dBFS) steps."""
    level = np.concatenate([np.full(round(seconds * 48_000), 10 ** (dbfs / 20)) for seconds, dbfs in steps])
    wave = level * np.sin(2 * np.pi * hz * np.arange(len(level)) / 48_000)
    return torch.from_numpy(np.stack([wave, wave]).astype(np.float32))


def test_a_sine_of_997_hz_at_full_scale_in_one_channel_has_minus_3_01_lufs():
    audio = sine((5, 0), hz=997)
    audio[1] = 0
    assert integrated_loudness(audio) == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([(5, -23)], -23),
        ([(5, -33)], -33),
        ([(10, -36), (60, -23), (10, -36)], -23),
        ([(10, -72), (10, -36), (60, -23), (10, -36), (10, -72)], -23),
        ([(20, -26), (20.1, -20), (20, -26)], -23),
    ],
    ids=["case 1", "case 2", "case 3: relative gate", "case 4: absolute gate", "case 5"],
)
def test_the_cases_of_ebu_tech_3341_are_met(steps, expected):
    assert integrated_loudness(sine(*steps)) == pytest.approx(expected, abs=0.1)


# (samples, channels, LUFS) of noise with a quiet part, from this project's former implementation of BS.1770-4.
GOLDEN = [
    (100, 1, -17.87879671176194),
    (100, 2, -14.443014504838233),
    (19199, 1, -17.537682338834486),
    (19199, 2, -14.579163665029254),
    (19200, 1, -17.743253048033896),
    (19200, 2, -14.6949387952813),
    (23999, 1, -17.86582844472602),
    (23999, 2, -14.864776793844248),
    (480001, 1, -17.01034528320587),
    (480001, 2, -13.988458999261018),
]


@pytest.mark.parametrize(("num_samples", "num_channels", "lufs"), GOLDEN)
def test_the_loudness_of_any_length_has_not_changed(num_samples, num_channels, lufs):
    noise = np.random.default_rng(num_samples).standard_normal((num_channels, num_samples)) * 0.1
    noise[:, num_samples // 3 : num_samples // 2] *= 1e-3
    assert integrated_loudness(torch.from_numpy(noise)) == pytest.approx(lufs, abs=1e-6)


def test_surround_sound_is_measured_as_its_stereo_mix():
    noise = np.random.default_rng(0).standard_normal((6, 96_000)).astype(np.float32) * 0.05
    stereo = to_stereo(noise.T)
    assert integrated_loudness(torch.from_numpy(noise)) == integrated_loudness(torch.from_numpy(stereo))


@pytest.mark.parametrize("num_samples", [0, 1, 4800, 19_199])
def test_silence_has_a_loudness_of_minus_infinity_and_stays_silent(num_samples):
    assert integrated_loudness(torch.zeros(2, num_samples)) == -math.inf
    for mode in NORMALIZATIONS:
        assert torch.equal(normalize(torch.zeros(2, num_samples), mode), torch.zeros(2, num_samples))


def test_audio_shorter_than_a_block_is_measured_as_one_block():
    assert integrated_loudness(sine((0.3, -23))) == pytest.approx(-23, abs=0.3)


@pytest.mark.parametrize("dbfs", [-40, -20, -14.5])
def test_normalized_audio_has_minus_14_lufs(dbfs):
    for mode in ("lufs", "peak_lufs"):
        assert integrated_loudness(normalize(sine((5, dbfs)), mode)) == pytest.approx(-14, abs=0.02)


def test_the_peak_limits_the_gain():
    audio = sine((5, -40))
    audio[:, 100_000] = 0.5
    for mode, ceiling in (("lufs", 1.0), ("peak_lufs", 10 ** (-1 / 20))):
        louder = normalize(audio, mode)
        assert louder.abs().max() == pytest.approx(ceiling)
        assert torch.allclose(louder, audio * (ceiling / 0.5))


def test_peak_is_minus_one_dbfs_and_none_changes_nothing():
    audio = sine((2, -20))
    assert normalize(audio, "peak").abs().max() == pytest.approx(10 ** (-1 / 20))
    assert normalize(audio, "none") is audio


def test_an_unknown_mode_is_rejected():
    with pytest.raises(ConfigError, match="'loud'"):
        normalize(torch.ones(2, 10), "loud")
