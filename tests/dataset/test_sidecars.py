import json

import pytest

from acestep.core.errors import DatasetError
from acestep.dataset.scan import scan_folder
from acestep.dataset.sidecars import write_sidecar
from tests import bad_files

SIDE_STEP = """caption: A slow song
that goes on: here
genre: folk, ballad
BPM: 72
scale: A minor
signature: 3/4
is_instrumental: false
custom_tag: other
lang: DE
repeat: 3
lyrics:
[Verse]
caption: this is sung
"""


@pytest.fixture
def song(tmp_path):
    return bad_files.song(tmp_path / "deep" / "song.v2.wav", 1.5, rate=8000)


def scanned(song):
    found = scan_folder(song.parent.parent)
    return found.dataset.samples[0], found.problems


def test_side_steps_text_is_read_with_all_its_names(song):
    song.with_suffix(".txt").write_bytes(b"\xef\xbb\xbf" + SIDE_STEP.replace("\n", "\r\n").encode())
    sample, problems = scanned(song)
    assert problems == []
    assert sample.caption == "A slow song\nthat goes on: here"
    assert (sample.genre, sample.bpm, sample.keyscale, sample.timesignature) == ("folk, ballad", 72, "A minor", "3")
    assert (sample.language, sample.is_instrumental, sample.custom_tag) == ("de", False, "")
    assert sample.lyrics == sample.raw_lyrics == "[Verse]\ncaption: this is sung"


@pytest.mark.parametrize(
    "words",
    [
        "[Verse]\nkey: of my heart\nbpm: 100",
        "Key: you hold it\nand I sing",
        "plain words: with a colon\nlanguage: of love",
        "one line",
    ],
)
def test_other_text_is_lyrics_as_it_stands(song, words):
    song.with_suffix(".txt").write_text(f"\n{words}\n\n")
    sample, _ = scanned(song)
    assert (sample.lyrics, sample.raw_lyrics, sample.is_instrumental, sample.labeled) == (words, words, False, False)


def test_facts_without_a_caption_are_not_taken_for_lyrics(song):
    song.with_suffix(".txt").write_text("bpm: 120\nkey: C minor\n")
    sample, _ = scanned(song)
    assert (sample.bpm, sample.keyscale, sample.is_instrumental) == (120, "C minor", True)


def test_an_empty_text_file_says_nothing(song):
    song.with_suffix(".txt").write_text(" \n")
    assert scanned(song)[0].is_instrumental


def test_captions_and_lyrics_of_their_own_files_beat_the_plain_text(song):
    song.with_suffix(".txt").write_text(SIDE_STEP)
    song.with_suffix(".caption.txt").write_text("a better caption\n")
    song.with_suffix(".lyrics.txt").write_text("better words\n")
    sample, _ = scanned(song)
    assert (sample.caption, sample.lyrics, sample.bpm) == ("a better caption", "better words", 72)
    assert (sample.sources["caption"], sample.sources["lyrics"]) == ("song.v2.caption.txt", "song.v2.lyrics.txt")


def test_names_match_whatever_their_case_and_the_encoding_of_accents(tmp_path):
    bad_files.song(tmp_path / "Caf\u00e9.wav", 1.5, rate=8000)
    (tmp_path / "cafe\u0301.TXT").write_text("words")
    assert scan_folder(tmp_path).dataset.samples[0].lyrics == "words"


def test_two_formats_of_one_song_can_have_labels_of_their_own(song):
    other = bad_files.song(song.with_suffix(".flac"), 1.5, rate=8000)
    song.with_suffix(".json").write_text(json.dumps({"caption": "shared"}))
    song.with_name(f"{other.name}.json").write_text(json.dumps({"caption": "of the flac"}))
    captions = {sample.filename: sample.caption for sample in scan_folder(song.parent).dataset.samples}
    assert captions == {song.name: "shared", other.name: "of the flac"}
    assert write_sidecar(other, {"bpm": 90}).name == f"{other.name}.json"
    assert write_sidecar(song, {"bpm": 90}) == song.with_suffix(".json")


def test_json_of_other_programs_is_read_by_its_other_names(song):
    labels = {"description": "a song", "key": "Am", "tempo": 99.6, "time_signature": 6, "vocal_language": "EN"}
    song.with_suffix(".json").write_text("\ufeff" + json.dumps({**labels, "genres": ["rock", "pop"]}))
    sample, _ = scanned(song)
    assert (sample.caption, sample.keyscale, sample.bpm, sample.timesignature) == ("a song", "Am", 100, "6")
    assert (sample.language, sample.genre) == ("en", "rock, pop")


def test_writing_keeps_foreign_keys_and_labels_that_are_not_named(song):
    song.with_suffix(".json").write_text(json.dumps({"rating": 5, "lyrics": "words", "caption": "old"}))
    path = write_sidecar(song, {"caption": "n\u00e9w", "bpm": 100})
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data == {
        "filename": song.name,
        "path": str(song),
        "caption": "n\u00e9w",
        "bpm": 100,
        "lyrics": "words",
        "rating": 5,
    }
    assert list(data) == ["filename", "path", "caption", "bpm", "lyrics", "rating"]
    assert "\u00e9" in path.read_text(encoding="utf-8")
    assert sorted(entry.name for entry in song.parent.iterdir()) == ["song.v2.json", "song.v2.wav"]


@pytest.mark.parametrize("content", ["my own notes", "[1, 2]"])
def test_a_file_that_is_not_ours_to_change_is_not_overwritten(song, content):
    song.with_suffix(".json").write_text(content)
    with pytest.raises(DatasetError, match=r"song\.v2\.json"):
        write_sidecar(song, {"caption": "new"})
    assert song.with_suffix(".json").read_text() == content


@pytest.mark.root
def test_a_read_only_folder_is_an_error_with_a_name():
    code = """
import sys, pathlib
from acestep.core.errors import NotWritable
from acestep.dataset.sidecars import write_sidecar
try:
    write_sidecar(pathlib.Path(sys.argv[1]), {"caption": "x"})
except NotWritable as error:
    print(error, error.hint)
"""
    with bad_files.public_folder() as folder:
        folder.chmod(0o755)
        answer = bad_files.run_unprivileged(code, folder / "song.wav")
    assert "song.json cannot be written" in answer.stdout, answer.stderr
