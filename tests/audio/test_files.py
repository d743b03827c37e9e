import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch

from acestep.audio.files import load_audio, probe_audio, resample, write_audio
from acestep.core.errors import AudioError
from tests import bad_files


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".opus", ".ogg", ".aiff"])
def test_every_format_is_loaded_as_48_khz_stereo_at_its_original_level(tmp_path, suffix):
    path = bad_files.song(tmp_path / f"song{suffix}", 3.0)
    info = probe_audio(path)
    audio = load_audio(path)
    assert (round(info.duration_s, 1), info.sample_rate_hz, info.num_channels) == (3.0, 48_000, 2)
    assert audio.shape == (2, 144_000)
    assert audio.dtype == torch.float32
    assert torch.allclose(audio.square().mean(1).sqrt(), torch.tensor(0.3 / 2**0.5), atol=0.01)


def test_mono_is_copied_to_both_channels_and_resampled_to_48_khz(tmp_path):
    audio = load_audio(bad_files.mono_22050(tmp_path / "mono.wav"))
    expected = torch.from_numpy(bad_files.tone(channels=1)[:, 0])
    assert torch.equal(audio[0], audio[1])
    assert audio.shape[1] == 96_000
    assert torch.allclose(audio[0, 2000:-2000], expected[2000:-2000], atol=1e-3)


@pytest.mark.parametrize(
    ("suffix", "order"), [(".wav", (0, 1, 2, 4, 5)), (".flac", (0, 1, 2, 4, 5)), (".opus", (0, 2, 1, 3, 4))]
)
def test_the_downmix_puts_the_center_on_both_sides_and_drops_the_lfe_channel(tmp_path, suffix, order):
    path = bad_files.surround_51(tmp_path / f"surround{suffix}")
    left, right, center, left_surround, right_surround = order
    found = np.abs(np.fft.rfft(load_audio(path)[:, 48_000:].numpy())) / 24_000 / 0.1
    expected = np.zeros((2, 6))
    expected[0, left] = expected[1, right] = 1
    expected[:, center] = expected[0, left_surround] = expected[1, right_surround] = 0.5**0.5
    assert np.allclose(found[:, [110 * (c + 2) for c in range(6)]], expected, atol=0.05)


def test_a_downmix_above_full_scale_is_scaled_down_instead_of_clipped(tmp_path):
    path = bad_files.song(tmp_path / "loud.wav", channels=6, level=0.9)
    assert load_audio(path).abs().max() == pytest.approx(1.0, abs=1e-4)


def test_a_sample_rate_without_a_common_factor_is_resampled_without_a_huge_filter():
    audio = resample(torch.from_numpy(bad_files.tone(rate=47_999)[:, :1].T.copy()), 47_999)
    assert audio.shape[1] == pytest.approx(96_000, abs=30)


def test_only_the_requested_duration_is_decoded(tmp_path):
    path, remarks = bad_files.truncated(tmp_path / "song.flac", seconds=5.0), []
    assert load_audio(path, max_duration_s=1.5, report=remarks.append).shape == (2, 72_000)
    assert remarks == []
    load_audio(path, report=remarks.append)
    assert remarks


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("empty.wav", bad_files.empty, "is empty"),
        ("list.mp3", bad_files.text_named_audio, "is not an audio file"),
        ("nan.wav", bad_files.with_nan, "NaN or infinite"),
        ("silent.flac", bad_files.silent, "is silent"),
        ("short.wav", bad_files.too_short, "0.20 s long"),
        ("absent.wav", lambda path: path, "does not exist"),
        ("folder.wav", lambda path: path.mkdir() or path, "cannot be read"),
        ("pipe.wav", lambda path: os.mkfifo(path) or path, "it is not a file"),
    ],
)
def test_an_unusable_file_is_rejected_with_its_name_and_the_reason(tmp_path, name, make, reason):
    with pytest.raises(AudioError, match=reason) as caught:
        load_audio(make(tmp_path / name))
    assert name in str(caught.value)
    assert caught.value.hint


def test_a_mostly_silent_file_is_used_with_a_remark(tmp_path):
    samples = np.zeros((48_000 * 10, 2), np.float32)
    samples[: 48_000 // 5] = bad_files.tone(0.2)
    for share, remarked in ((1.0, ["98% silent"]), (0.3, [])):
        path, remarks = tmp_path / f"{share}.wav", []
        soundfile.write(path, samples[: int(len(samples) * share)], 48_000)
        load_audio(path, report=remarks.append)
        assert [remark.split(" is ")[-1].rstrip(".") for remark in remarks] == remarked


@pytest.mark.root
def test_a_file_without_read_permission_is_rejected():
    code = """
import sys, pathlib
from acestep.audio.files import probe_audio
from acestep.core.errors import AudioError
try:
    probe_audio(pathlib.Path(sys.argv[1]))
except AudioError as error:
    print(error)
"""
    with bad_files.public_folder() as folder:
        path = bad_files.song(folder / "closed.wav")
        path.chmod(0)
        process = bad_files.run_unprivileged(code, path)
    assert process.stdout.strip().endswith("closed.wav cannot be read: Permission denied"), process.stderr


@pytest.mark.parametrize("name", bad_files.AWKWARD_NAMES)
def test_files_with_unusual_names_are_read_and_written(tmp_path, name):
    write_audio(tmp_path / name, torch.from_numpy(bad_files.tone().T))
    assert load_audio(tmp_path / name).shape == (2, 96_000)


def test_a_wav_file_written_to_a_pipe_is_read(tmp_path):
    path = bad_files.song(tmp_path / "piped.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert load_audio(path).shape == (2, 96_000)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".m4a", ".opus", ".ogg"])
@pytest.mark.parametrize("rate", [48_000, 44_100, 96_000])
def test_written_audio_can_be_loaded(tmp_path, suffix, rate):
    written = torch.from_numpy(bad_files.tone(rate=rate).T)
    write_audio(tmp_path / f"out{suffix}", written, rate)
    read = load_audio(tmp_path / f"out{suffix}")
    expected = resample(written, rate)
    assert 0 <= read.shape[1] - expected.shape[1] < 1024  # AAC fills its last frame
    assert (read[:, 4000:90_000] - expected[:, 4000:90_000]).abs().max() < 0.03


def test_raw_aac_is_written_with_the_delay_of_the_encoder(tmp_path):
    written = torch.from_numpy(bad_files.tone().T)
    write_audio(tmp_path / "out.aac", written)
    read = load_audio(tmp_path / "out.aac")
    assert (read[:, 1024 + 4000 : 1024 + 90_000] - written[:, 4000:90_000]).abs().max() < 0.03


def test_ogg_files_are_written_as_opus(tmp_path):
    write_audio(tmp_path / "minute.ogg", torch.from_numpy(bad_files.tone(61.0).T))
    assert soundfile.info(tmp_path / "minute.ogg").subtype == "OPUS"


def test_lossless_formats_keep_24_bits(tmp_path):
    written = torch.from_numpy(bad_files.tone().T)
    for suffix in (".wav", ".flac"):
        write_audio(tmp_path / f"out{suffix}", written)
        assert (load_audio(tmp_path / f"out{suffix}") - written).abs().max() < 2**-22


def test_empty_audio_nan_samples_and_unknown_suffixes_are_not_written(tmp_path):
    valid = torch.zeros(2, 100)
    for path, audio in (
        (tmp_path / "a.xyz", valid),
        (tmp_path / "a", valid),
        (tmp_path / "a.wav", valid[:, :0]),
        (tmp_path / "a.wav", valid.log() - valid.log()),
    ):
        with pytest.raises(AudioError):
            write_audio(path, audio)
    assert not list(tmp_path.iterdir())


@pytest.mark.root
def test_a_folder_without_write_permission_is_reported(tmp_path):
    code = """
import sys, pathlib, torch
from acestep.audio.files import write_audio
from acestep.core.errors import NotWritable
try:
    write_audio(pathlib.Path(sys.argv[1]), torch.zeros(2, 100))
except NotWritable as error:
    print(error)
"""
    with bad_files.public_folder() as folder:
        os.chmod(folder, 0o755)
        process = bad_files.run_unprivileged(code, folder / "out.wav")
    assert "out.wav cannot be written" in process.stdout, process.stderr


def test_probing_a_file_imports_neither_torch_nor_scipy(tmp_path):
    path = bad_files.song(tmp_path / "song.wav")
    code = f"""
import pathlib, sys
from acestep.audio import loudness, split
from acestep.audio.files import probe_audio
print(probe_audio(pathlib.Path({str(path)!r})).duration_s, "torch" in sys.modules, "scipy" in sys.modules)
"""
    process = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=bad_files.PROJECT
    )
    assert process.stdout.split() == ["2.0", "False", "False"], process.stderr
