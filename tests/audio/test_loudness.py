"""The cases are those of EBU Tech 3341 (table 1; steady ones are shorter here) and of BS.1770-4 itself."""

import math

import numpy as np
import pyloudnorm
import pytest
import torch

from acestep.audio.loudness import NORMALIZATIONS, integrated_loudness, normalize
from acestep.core.errors import ConfigError


def sine(*steps: tuple[float, float], hz: float = 1000.0) -> torch.Tensor:
    """[2, S]: seconds and level in dBFS, one step after the other."""
    level = np.concatenate([np.full(round(seconds * 48_000), 10 ** (dbfs / 20)) for seconds, dbfs in steps])
    wave = level * np.sin(2 * np.pi * hz * np.arange(len(level)) / 48_000)
    return torch.from_numpy(np.stack([wave, wave]).astype(np.float32))


def test_a_sine_of_997_hz_at_full_scale_in_one_channel_has_minus_3_01_lufs():
    audio = sine((5, 0), hz=997)
    audio[1] = 0
    assert integrated_loudness(audio) == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([(5, -23)], -23),
        ([(5, -33)], -33),
        ([(10, -36), (60, -23), (10, -36)], -23),
        ([(10, -72), (10, -36), (60, -23), (10, -36), (10, -72)], -23),
        ([(20, -26), (20.1, -20), (20, -26)], -23),
    ],
    ids=["case 1", "case 2", "case 3: relative gate", "case 4: absolute gate", "case 5"],
)
def test_the_broadcasters_cases_are_met(steps, wanted):
    assert integrated_loudness(sine(*steps)) == pytest.approx(wanted, abs=0.1)


def test_another_implementation_agrees_on_noise():
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 480_000)) * 0.1)
    noise[:, 200_000:300_000] *= 1e-3
    assert integrated_loudness(noise) == pytest.approx(
        pyloudnorm.Meter(48_000).integrated_loudness(noise.T.numpy()), abs=0.05
    )


@pytest.mark.parametrize("num_samples", [0, 1, 4800, 19_199])
def test_silence_and_next_to_nothing_have_no_loudness_and_no_nan(num_samples):
    assert integrated_loudness(torch.zeros(2, num_samples)) == -math.inf
    for mode in NORMALIZATIONS:
        assert torch.equal(normalize(torch.zeros(2, num_samples), mode), torch.zeros(2, num_samples))


def test_less_than_a_block_is_measured_as_a_whole():
    assert integrated_loudness(sine((0.3, -23))) == pytest.approx(-23, abs=0.3)


@pytest.mark.parametrize("dbfs", [-40, -20, -14.5])
def test_lufs_means_minus_14_by_the_true_measure(dbfs):
    for mode in ("lufs", "peak_lufs"):
        assert integrated_loudness(normalize(sine((5, dbfs)), mode)) == pytest.approx(-14, abs=0.02)


def test_the_peak_limits_the_gain_and_dynamics_stay():
    audio = sine((5, -40))
    audio[:, 100_000] = 0.5
    for mode, ceiling in (("lufs", 1.0), ("peak_lufs", 10 ** (-1 / 20))):
        louder = normalize(audio, mode)
        assert louder.abs().max() == pytest.approx(ceiling)
        assert torch.allclose(louder, audio * (ceiling / 0.5))


def test_peak_means_minus_one_dbfs_and_none_means_none():
    audio = sine((2, -20))
    assert normalize(audio, "peak").abs().max() == pytest.approx(10 ** (-1 / 20))
    assert normalize(audio, "none") is audio


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="'loud'"):
        normalize(torch.ones(2, 10), "loud")
