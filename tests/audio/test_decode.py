"""Audio files as they are found in users' folders: every format, wrong headers, joined and damaged files."""

import io
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from acestep.audio.files import AUDIO_EXTENSIONS, load_audio, probe_audio
from acestep.audio.pyav_decode import PyAvStream
from acestep.core.errors import AudioError
from tests import bad_files

# Container and codec of FFmpeg by suffix, for the formats that PyAV can also write.
FORMATS = {
    ".m4a": ("ipod", "aac"), ".m4b": ("ipod", "aac"), ".aac": ("adts", "aac"), ".mp4": ("mp4", "aac"),
    ".mov": ("mov", "pcm_s24le"), ".mka": ("matroska", "vorbis"), ".mkv": ("matroska", "flac"),
    ".webm": ("webm", "libopus"), ".wv": ("wv", "wavpack"), ".tta": ("tta", "tta"), ".ac3": ("ac3", "ac3"),
    ".eac3": ("eac3", "eac3"), ".caf": ("caf", "alac"), ".mp2": ("mp2", "mp2"), ".wma": ("asf", "wmav2"),
    ".w64": ("w64", "pcm_s16le"), ".au": ("au", "pcm_s16be"), ".voc": ("voc", "pcm_s16le"),
    ".avi": ("avi", "libmp3lame"), ".flv": ("flv", "libmp3lame"), ".aifc": ("aiff", "pcm_s16be"),
    ".oga": ("oga", "vorbis"), ".flac": ("flac", "flac"), ".mp3": ("mp3", "libmp3lame"), ".opus": ("opus", "libopus"),
}  # fmt: skip


def encoded(samples: np.ndarray, rate: int, container_format: str, codec: str) -> bytes:
    """The content of a file with ``samples`` [frames, 2]."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format, options={"strict": "experimental"}) as container:
        stream = container.add_stream(
            codec, rate=rate, layout="stereo", bit_rate=192_000, options={"strict": "experimental"}
        )
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def loaded(path):
    """The duration in seconds that is stated before decoding, the decoded one, and the remarks."""
    remarks = []
    audio = load_audio(path, report=remarks.append)
    return probe_audio(path).duration_s, audio.shape[1] / 48_000, remarks


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_read_whole_at_its_original_level_without_a_remark(tmp_path, suffix):
    path = tmp_path / f"song{suffix}"
    path.write_bytes(encoded(bad_files.tone(3.0), 48_000, *FORMATS[suffix]))
    stated, decoded, remarks = loaded(path)
    assert suffix in AUDIO_EXTENSIONS
    assert decoded == pytest.approx(3.0, abs=0.06)
    assert stated == pytest.approx(decoded, abs=0.1)
    assert remarks == []
    assert load_audio(path)[:, 4800:-4800].square().mean().sqrt() == pytest.approx(0.3 / 2**0.5, abs=0.02)


def mp3_without_header() -> bytes:
    """5 s of noise, then 5 s of near silence at a variable bit rate, so that the first frames mislead."""
    loud = np.random.default_rng(0).standard_normal((44_100 * 5, 2)) * 0.2
    buffer = io.BytesIO()
    samples = np.concatenate([loud, loud * 1e-3])
    soundfile.write(buffer, samples, 44_100, format="MP3", bitrate_mode="VARIABLE", compression_level=0.5)
    data = buffer.getvalue()
    return data[data.find(data[:2], 4) :]  # without the frame that holds the number of frames


MP3 = mp3_without_header()


def id3(num_bytes: int, stated: int | None = None) -> bytes:
    stated = num_bytes if stated is None else stated
    sizes = bytes(stated >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00\x00" + sizes + bytes(num_bytes)


def length_frame(tag: bytes) -> bytes:
    """A silent frame at 128 kbit/s that carries ``tag`` after the side information."""
    return (b"\xff\xfb\x90\x00" + bytes(32) + tag).ljust(417, b"\0")


def vbri() -> bytes:
    """The header of Fraunhofer's encoder: version, delay, quality, bytes, frames, then a table of contents."""
    with av.open(io.BytesIO(MP3)) as container:
        num_frames = sum(packet.size > 0 for packet in container.demux())
    counts = len(MP3).to_bytes(4) + num_frames.to_bytes(4)
    return length_frame(b"VBRI" + (1).to_bytes(2) + bytes(4) + counts + bytes(8))


MP3_FILES = {
    "no header": MP3,
    "padding after the tag that it does not count": id3(256) + bytes(2000) + MP3,
    "a tag that states no size": id3(512, stated=0) + MP3,
    "a tag that states a wrong size": id3(512, stated=300) + MP3,
    "other data in front": b"\x80\x01junk" * 300 + MP3,
    "two tags": id3(300) + id3(700) + MP3,
    "a Xing header without the number of frames": length_frame(b"Xing" + bytes(4)) + MP3,
    "a VBRI header": vbri() + MP3,
    "a tag at the end": MP3 + b"TAG" + bytes(125),
}


@pytest.mark.parametrize("name", MP3_FILES)
def test_an_mp3_file_is_read_to_its_end_whatever_its_tags_state(tmp_path, name):
    path = tmp_path / "song.mp3"
    path.write_bytes(MP3_FILES[name])
    stated, decoded, _ = loaded(path)
    assert decoded == pytest.approx(10.0, abs=0.15)
    assert stated == pytest.approx(decoded, abs=0.1)
    audio = load_audio(path)
    assert audio[:, : 48_000 * 4].square().mean() > 100 * audio[:, -48_000 * 4 :].square().mean()


def test_joined_files_are_read_to_the_end_of_the_last_one(tmp_path):
    for suffix in (".mp3", ".flac", ".ogg"):
        content = bad_files.song(tmp_path / f"part{suffix}", 3.0).read_bytes()
        path = tmp_path / f"joined{suffix}"
        path.write_bytes(content + content)
        stated, decoded, _ = loaded(path)
        assert decoded == pytest.approx(6.0, abs=0.1), suffix


def test_parts_with_another_rate_and_channel_count_get_those_of_the_first_part(tmp_path):
    first = bad_files.song(tmp_path / "stereo.mp3", 3.0, rate=48_000).read_bytes()
    second = bad_files.song(tmp_path / "mono.mp3", 2.0, rate=24_000, channels=1).read_bytes()
    path = tmp_path / "joined.mp3"
    path.write_bytes(first + second)
    assert loaded(path)[1] == pytest.approx(5.0, abs=0.1)
    tail = load_audio(path)[0, -48_000:]
    assert np.abs(np.fft.rfft(tail.numpy()))[220] / 24_000 == pytest.approx(0.3, abs=0.02)  # 220 Hz, not 110 or 440


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".mp3", ".aiff"])
def test_a_file_that_ends_early_is_used_as_far_as_it_goes_with_a_remark_that_names_it(tmp_path, suffix):
    path = bad_files.truncated(tmp_path / f"cut{suffix}")
    _, decoded, remarks = loaded(path)
    assert decoded == pytest.approx(2.5, abs=0.1)
    assert str(path) in remarks[-1]
    assert "but its header indicates 5.0 s" in remarks[-1]


@pytest.mark.parametrize("suffix", [".flac", ".mp3", ".opus", ".ogg"])
def test_damaged_frames_are_skipped_with_a_remark(tmp_path, suffix):
    path = bad_files.song(tmp_path / f"damaged{suffix}", 5.0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = b"\x55" * 3000
    path.write_bytes(data)
    _, decoded, remarks = loaded(path)
    assert 3.9 < decoded < 5.1
    assert all(str(path) in remark for remark in remarks)
    assert remarks


def test_a_file_that_is_mostly_damaged_is_rejected(tmp_path):
    for suffix in (".m4a", ".flac", ".mka"):
        data = bytearray(encoded(bad_files.tone(5.0), 48_000, *FORMATS[suffix]))
        data[8000:-6000] = np.random.default_rng(0).bytes(len(data) - 14_000)
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(data)
        with pytest.raises(AudioError, match=f"damaged{suffix} is damaged"):
            load_audio(path)


def test_a_flac_file_that_was_written_to_a_pipe_is_read(tmp_path):
    path = bad_files.song(tmp_path / "piped.flac")
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO: 36 bits of total samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert loaded(path) == (2.0, 2.0, [])


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF])
def test_a_wav_file_without_a_size_is_read_to_its_end(tmp_path, size):
    path = bad_files.song(tmp_path / "piped.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = size.to_bytes(4, "little")
    path.write_bytes(data)
    assert loaded(path) == (2.0, 2.0, [])


def test_a_file_with_the_suffix_of_another_format_is_read(tmp_path):
    path = tmp_path / "renamed.wav"
    path.write_bytes(bad_files.song(tmp_path / "song.mp3").read_bytes())
    assert loaded(path)[1] == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("scheme", ["{path}", "file:{path}", "http://127.0.0.1:9/a.mp3"])
def test_a_playlist_does_not_open_the_files_that_it_names(tmp_path, scheme):
    song = bad_files.song(tmp_path / "song.mp3")
    head = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXT-X-VERSION:3\n#EXTINF:2.0,\n"
    path = tmp_path / "list.mp3"
    path.write_text(head + scheme.format(path=song) + "\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioError, match="is not an audio file"):
        load_audio(path)


def test_the_libraries_print_nothing(tmp_path):
    for suffix in (".mp3", ".flac", ".aiff", ".opus", ".wav"):
        bad_files.truncated(tmp_path / f"cut{suffix}")
    bad_files.text_named_audio(tmp_path / "list.mp3")
    code = """
import contextlib, pathlib, sys
from acestep.audio.files import load_audio
from acestep.audio.pyav_decode import PyAvStream
from acestep.core.errors import AudioError
for path in pathlib.Path(sys.argv[1]).iterdir():
    with contextlib.suppress(AudioError):
        load_audio(path, report=lambda remark: None)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=bad_files.PROJECT, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_disk_error_is_reported_with_the_name_of_the_file(tmp_path, monkeypatch):
    path = bad_files.song(tmp_path / "song.flac")

    class Failing(io.FileIO):
        def read(self, size=-1):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", lambda path, mode: Failing(path))
    with pytest.raises(AudioError, match="song.flac cannot be read: Input/output error"):
        PyAvStream(path)
