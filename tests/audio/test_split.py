import numpy as np
import pytest
import soundfile

from acestep.audio.split import split_folder
from acestep.core.errors import AudioError
from tests import bad_files

RATE = 8_000  # keeps the files small


@pytest.fixture
def songs(tmp_path):
    folder = tmp_path / "songs"
    bad_files.song(folder / "a long song.wav", 35, rate=RATE)
    bad_files.song(folder / "short remainder.flac", 25, rate=RATE, channels=1)
    return folder


def test_segments_are_contiguous_and_a_short_remainder_is_reported(songs, tmp_path):
    progress = []
    result = split_folder(songs, tmp_path / "out", 10, on_progress=lambda *done: progress.append(done))
    names = [path.name for path in result.written]
    assert names == [f"a long song_seg0{n}.wav" for n in (1, 2, 3)] + [f"short remainder_seg0{n}.wav" for n in (1, 2)]
    assert result.left_out == [
        "a long song.wav: the last 5.0 s are shorter than 10 s",
        "short remainder.flac: the last 5.0 s are shorter than 10 s",
    ]
    assert progress == [(1, 2, "a long song.wav"), (2, 2, "short remainder.flac")]
    whole, _ = soundfile.read(songs / "a long song.wav")
    segments = [soundfile.read(path)[0] for path in result.written[:3]]
    assert np.array_equal(np.concatenate(segments), whole[: 30 * RATE])
    assert soundfile.info(result.written[0]).samplerate == RATE


def test_a_remainder_of_ten_seconds_or_more_is_kept(songs, tmp_path):
    result = split_folder(songs, tmp_path / "out", 15)
    assert [round(soundfile.info(path).duration) for path in result.written] == [15, 15, 15, 10]


def test_splitting_again_writes_nothing_and_reports_the_existing_segments(songs, tmp_path):
    first = split_folder(songs, tmp_path / "out", 10)
    times = [path.stat().st_mtime_ns for path in first.written]
    second = split_folder(songs, tmp_path / "out", 10)
    assert second.written == []
    assert second.segments == second.up_to_date == first.segments
    assert [path.stat().st_mtime_ns for path in first.written] == times


def test_a_different_file_of_the_same_name_is_never_overwritten(songs, tmp_path):
    mine = tmp_path / "out" / "a long song_seg02.wav"
    mine.parent.mkdir()
    mine.write_text("my notes")
    result = split_folder(songs, tmp_path / "out", 10)
    assert mine.read_text() == "my notes"
    assert any(mine.name in line and "not overwritten" in line for line in result.left_out)
    assert len(result.written) == 4


def test_segments_of_two_files_with_the_same_stem_have_different_names(songs, tmp_path):
    bad_files.song(songs / "A Long Song.flac", 12, rate=RATE)
    result = split_folder(songs, tmp_path / "out", 10)
    names = {path.name for path in result.written}
    assert {"a long song.wav_seg01.wav", "A Long Song.flac_seg01.wav"} <= names
    assert len(names) == len(result.written)


def test_an_unreadable_file_is_reported_and_the_others_are_split(songs, tmp_path):
    bad_files.text_named_audio(songs / "a list.mp3")
    bad_files.truncated(songs / "cut.flac", seconds=20)
    result = split_folder(songs, tmp_path / "out", 10)
    assert len(result.written) >= 5
    assert "a list.mp3" in result.left_out[0]
    assert any("cut.flac holds" in line for line in result.left_out)


def test_stopping_keeps_the_segments_already_written(songs, tmp_path):
    answers = iter([False, False, True])
    result = split_folder(songs, tmp_path / "out", 10, should_stop=lambda: next(answers))
    assert result.stopped
    assert [path.name for path in result.written] == ["a long song_seg01.wav", "a long song_seg02.wav"]


def test_a_folder_that_gives_no_segments_is_an_error(songs, tmp_path):
    (tmp_path / "empty").mkdir()
    bad_files.song(tmp_path / "brief" / "jingle.wav", 5)
    for source, out, seconds, reason in (
        (tmp_path / "empty", tmp_path / "out", 30, "has no audio files"),
        (tmp_path / "absent", tmp_path / "out", 30, "cannot be read"),
        (tmp_path / "brief", tmp_path / "out", 30, "no segment could be written.*jingle.wav: the last 5.0 s"),
        (songs, songs, 30, "is the input folder"),
        (songs, tmp_path / "out", 5, "too short"),
    ):
        with pytest.raises(AudioError, match=reason):
            split_folder(source, out, seconds)


def joined(paths):
    return np.concatenate([soundfile.read(path)[0] for path in paths])


def test_cuts_in_silence_are_contiguous_and_in_the_pauses(tmp_path):
    time = np.arange(60 * RATE) / RATE
    pauses = (time % 13 > 12.6) & (time % 13 < 13)  # at 12.6 s, 25.6 s ...
    samples = np.where(pauses, 0.0, 0.3 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)
    (tmp_path / "songs").mkdir()
    soundfile.write(tmp_path / "songs" / "a.wav", samples, RATE, "PCM_16")
    result = split_folder(tmp_path / "songs", tmp_path / "out", 15, at="silence")
    ends = [part.end_s % 13 for part in result.parts[:-1]]
    assert len(ends) >= 3
    assert all(12.6 <= end <= 13 for end in ends)
    audio = joined(result.segments)
    assert np.array_equal(audio, soundfile.read(tmp_path / "songs" / "a.wav")[0][: len(audio)])
    assert result.left_out == [f"a.wav: the last {60 - len(audio) / RATE:.1f} s are shorter than 10 s"]


@pytest.mark.parametrize(("bpm", "beats"), [(100, 4), (126, 3)])
def test_cuts_at_bars_begin_with_the_first_beat(tmp_path, bpm, beats):
    rate, offset_s = 22_050, 0.37
    samples = np.random.default_rng(0).standard_normal(75 * rate) * 1e-3
    decay = np.exp(-np.arange(int(0.1 * rate)) / (0.02 * rate))
    for beat in range(int((74 - offset_s) * bpm / 60)):
        start = int((offset_s + beat * 60 / bpm) * rate)
        pitch, level = (70, 0.9) if beat % beats == 0 else (900, 0.25)
        samples[start : start + len(decay)] += level * decay * np.sin(2 * np.pi * pitch * np.arange(len(decay)) / rate)
    (tmp_path / "songs").mkdir()
    soundfile.write(tmp_path / "songs" / "a.wav", samples, rate, "PCM_16")
    result = split_folder(tmp_path / "songs", tmp_path / "out", 20, at="bar")
    assert result.left_out == []
    bar_s = beats * 60 / bpm
    distances = [(part.end_s - offset_s + bar_s / 2) % bar_s - bar_s / 2 for part in result.parts[:-1]]
    assert len(distances) >= 3
    assert max(map(abs, distances)) < 0.05
    assert all(part.end_s - part.start_s <= 20 for part in result.parts)


def test_a_recording_without_bars_is_cut_in_silence_with_a_remark(tmp_path):
    (tmp_path / "songs").mkdir()
    noise = np.random.default_rng(0).standard_normal(40 * RATE) * 0.1
    soundfile.write(tmp_path / "songs" / "noise.wav", noise, RATE, "PCM_16")
    result = split_folder(tmp_path / "songs", tmp_path / "out", 15, at="bar")
    assert len(result.written) >= 2
    assert any("noise.wav has no measurable bars" in line for line in result.left_out)
