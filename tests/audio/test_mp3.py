import io

import numpy as np
import pytest
import soundfile

from acestep.audio.files import load_audio, probe_audio
from acestep.audio.mp3 import with_length


def mp3(samples: np.ndarray, rate: int, *, with_header: bool) -> bytes:
    """An MP3 file with a variable bit rate, with or without the header frame that holds the number of frames."""
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    data = buffer.getvalue()
    sync = data[:2]
    return data if with_header else data[data.find(sync, 4) :]


@pytest.fixture(params=[(44_100, 2), (44_100, 1), (24_000, 2), (11_025, 1)], ids=str)
def noise_then_silence(request):
    """Five seconds of noise, then five of near silence, so that the first frames do not predict the file's length."""
    rate, channels = request.param
    loud = np.random.default_rng(0).standard_normal((rate * 5, channels)) * 0.2
    return np.concatenate([loud, loud * 1e-3]), rate


@pytest.mark.parametrize("reversed_", [False, True])
def test_an_mp3_file_without_a_length_header_is_read_to_its_end(tmp_path, noise_then_silence, reversed_):
    samples, rate = noise_then_silence
    path = tmp_path / "bare.mp3"
    path.write_bytes(mp3(samples[::-1] if reversed_ else samples, rate, with_header=False))
    assert probe_audio(path).duration_s == pytest.approx(10, abs=0.3)
    audio = load_audio(path)
    assert audio.shape[1] / 48_000 == pytest.approx(10, abs=0.3)
    begin, end = audio[:, : 48_000 * 4].square().mean(), audio[:, -48_000 * 4 :].square().mean()
    assert (begin < end) == reversed_


def test_tags_at_the_start_and_end_are_not_counted_as_audio(tmp_path):
    noise = np.random.default_rng(0).standard_normal((48_000 * 4, 2)) * 0.2
    data = mp3(noise, 48_000, with_header=False)
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 2, 0]) + bytes(256)
    path = tmp_path / "tagged.mp3"
    path.write_bytes(tag + data + b"TAG" + bytes(125))
    assert probe_audio(path).duration_s == pytest.approx(4, abs=0.1)


def test_an_mp3_file_with_a_length_header_and_other_formats_are_not_changed(tmp_path):
    noise = np.random.default_rng(0).standard_normal((48_000, 2)) * 0.2
    (tmp_path / "complete.mp3").write_bytes(mp3(noise, 48_000, with_header=True))
    (tmp_path / "other").write_bytes(b"RIFF" + bytes(100))
    assert with_length(tmp_path / "complete.mp3") is None
    assert with_length(tmp_path / "other") is None
