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
def audio(tmp_path):
    return bad_files.song(tmp_path / "deep" / "song.v2.wav", 1.5, rate=8000)


def scan(audio):
    result = scan_folder(audio.parent.parent)
    return result.dataset.samples[0], result.problems


def test_key_value_text_of_side_step_is_read(audio):
    audio.with_suffix(".txt").write_bytes(b"\xef\xbb\xbf" + SIDE_STEP.replace("\n", "\r\n").encode())
    sample, problems = scan(audio)
    assert problems == []
    assert sample.caption == "A slow song\nthat goes on: here"
    assert (sample.genre, sample.bpm, sample.keyscale, sample.timesignature) == ("folk, ballad", 72, "A minor", "3")
    assert (sample.language, sample.is_instrumental, sample.custom_tag) == ("de", False, "")
    assert sample.lyrics == sample.raw_lyrics == "[Verse]\ncaption: this is sung"


@pytest.mark.parametrize(
    "lyrics",
    [
        "[Verse]\nkey: of my heart\nbpm: 100",
        "Key: you hold it\nand I sing",
        "plain words: with a colon\nlanguage: of love",
        "one line",
    ],
)
def test_other_text_is_read_as_lyrics(audio, lyrics):
    audio.with_suffix(".txt").write_text(f"\n{lyrics}\n\n")
    sample, _ = scan(audio)
    assert (sample.lyrics, sample.raw_lyrics, sample.is_instrumental, sample.labeled) == (lyrics, lyrics, False, False)


def test_metadata_without_a_caption_is_not_read_as_lyrics(audio):
    audio.with_suffix(".txt").write_text("bpm: 120\nkey: C minor\n")
    sample, _ = scan(audio)
    assert (sample.bpm, sample.keyscale, sample.is_instrumental) == (120, "C minor", True)


def test_an_empty_text_file_is_ignored(audio):
    audio.with_suffix(".txt").write_text(" \n")
    assert scan(audio)[0].is_instrumental


def test_caption_and_lyrics_files_take_precedence_over_the_text_file(audio):
    audio.with_suffix(".txt").write_text(SIDE_STEP)
    audio.with_suffix(".caption.txt").write_text("a better caption\n")
    audio.with_suffix(".lyrics.txt").write_text("better lyrics\n")
    sample, _ = scan(audio)
    assert (sample.caption, sample.lyrics, sample.bpm) == ("a better caption", "better lyrics", 72)
    assert (sample.sources["caption"], sample.sources["lyrics"]) == ("song.v2.caption.txt", "song.v2.lyrics.txt")


def test_names_match_regardless_of_case_and_unicode_normalization(tmp_path):
    bad_files.song(tmp_path / "Caf\u00e9.wav", 1.5, rate=8000)
    (tmp_path / "cafe\u0301.TXT").write_text("words")
    assert scan_folder(tmp_path).dataset.samples[0].lyrics == "words"


def test_two_formats_with_the_same_name_can_have_separate_labels(audio):
    other = bad_files.song(audio.with_suffix(".flac"), 1.5, rate=8000)
    audio.with_suffix(".json").write_text(json.dumps({"caption": "shared"}))
    audio.with_name(f"{other.name}.json").write_text(json.dumps({"caption": "of the flac"}))
    captions = {sample.filename: sample.caption for sample in scan_folder(audio.parent).dataset.samples}
    assert captions == {audio.name: "shared", other.name: "of the flac"}
    assert write_sidecar(other, {"bpm": 90}).name == f"{other.name}.json"
    assert write_sidecar(audio, {"bpm": 90}) == audio.with_suffix(".json")


def test_alternative_field_names_in_json_are_read(audio):
    labels = {"description": "a song", "key": "Am", "tempo": 99.6, "time_signature": 6, "vocal_language": "EN"}
    audio.with_suffix(".json").write_text("\ufeff" + json.dumps({**labels, "genres": ["rock", "pop"]}))
    sample, _ = scan(audio)
    assert (sample.caption, sample.keyscale, sample.bpm, sample.timesignature) == ("a song", "A Minor", 100, "6")
    assert (sample.language, sample.genre) == ("en", "rock, pop")


def test_writing_keeps_unknown_keys_and_other_labels(audio):
    audio.with_suffix(".json").write_text(json.dumps({"rating": 5, "lyrics": "words", "caption": "old"}))
    path = write_sidecar(audio, {"caption": "n\u00e9w", "bpm": 100})
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data == {
        "filename": audio.name,
        "path": str(audio),
        "caption": "n\u00e9w",
        "bpm": 100,
        "lyrics": "words",
        "rating": 5,
    }
    assert list(data) == ["filename", "path", "caption", "bpm", "lyrics", "rating"]
    assert "\u00e9" in path.read_text(encoding="utf-8")
    assert sorted(entry.name for entry in audio.parent.iterdir()) == ["song.v2.json", "song.v2.wav"]


@pytest.mark.parametrize("content", ["my own notes", "[1, 2]"])
def test_a_file_that_is_not_a_sidecar_is_not_overwritten(audio, content):
    audio.with_suffix(".json").write_text(content)
    with pytest.raises(DatasetError, match=r"song\.v2\.json"):
        write_sidecar(audio, {"caption": "new"})
    assert audio.with_suffix(".json").read_text() == content


@pytest.mark.root
def test_a_read_only_folder_is_an_error_that_names_the_file():
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
        process = bad_files.run_unprivileged(code, folder / "song.wav")
    assert "song.json cannot be written" in process.stdout, process.stderr
