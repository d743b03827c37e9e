import json
import os
import subprocess
import sys

import pytest

from acestep.core.errors import DatasetError
from acestep.dataset.scan import scan_folder
from tests import bad_files


def song(path):
    return bad_files.song(path, 1.5, rate=8000)


def only(folder, **options):
    (sample,) = scan_folder(folder, **options).dataset.samples
    return sample


def told(found):
    return {problem.path.name: problem.message for problem in found.problems}


def test_songs_are_found_in_all_sub_folders_in_order_without_what_is_hidden(tmp_path):
    for name in ("b.wav", "a/z.flac", "a/b/c.mp3", "x.opus", ".hidden.wav", ".git/d.wav", "notes.txt", "E.AIFF"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("notes") if name == "notes.txt" else bad_files.song(path, rate=48_000)
    found = scan_folder(tmp_path, name="mine", custom_tag="zx", tag_position="append", genre_ratio=30)
    places = [os.path.relpath(sample.audio_path, tmp_path) for sample in found.dataset.samples]
    assert places == ["E.AIFF", "a/b/c.mp3", "a/z.flac", "b.wav", "x.opus"]
    assert found.problems == []
    meta = found.dataset.metadata
    assert (meta.name, meta.custom_tag, meta.tag_position, meta.genre_ratio, meta.num_samples) == (
        "mine",
        "zx",
        "append",
        30,
        5,
    )
    assert {(sample.custom_tag, sample.duration) for sample in found.dataset.samples} == {("zx", 2)}


def test_ids_are_the_same_in_each_scan_and_differ_for_one_name_in_two_folders(tmp_path):
    song(tmp_path / "one" / "song.wav")
    song(tmp_path / "two" / "song.wav")
    first = [sample.id for sample in scan_folder(tmp_path).dataset.samples]
    song(tmp_path / "aaa new.wav")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    second = [sample.id for sample in scan_folder(moved).dataset.samples]
    assert second[1:] == first
    assert len(set(second)) == 3
    assert all(len(name) == 8 and int(name, 16) >= 0 for name in second)


@pytest.mark.parametrize("name", bad_files.AWKWARD_NAMES)
def test_awkward_names_find_their_sidecars(tmp_path, name):
    path = song(tmp_path / "a folder" / name)
    path.with_suffix(".txt").write_text("la la la")
    path.with_suffix(".json").write_text(json.dumps({"caption": "a song"}))
    sample = only(tmp_path)
    assert (sample.filename, sample.lyrics, sample.caption) == (name, "la la la", "a song")


def test_a_song_of_which_nothing_is_said_is_not_labelled(tmp_path):
    song(tmp_path / "song.wav")
    sample = only(tmp_path)
    assert (sample.labeled, sample.caption, sample.sources) == (False, "", {})
    assert (sample.lyrics, sample.is_instrumental) == ("[Instrumental]", True)
    vocal = only(tmp_path, all_instrumental=False)
    assert (vocal.lyrics, vocal.is_instrumental) == ("", False)


def test_json_beats_text_beats_tables_and_each_field_tells_where_it_is_from(tmp_path):
    path = song(tmp_path / "song.wav")
    (tmp_path / "labels.csv").write_text(
        "file,caption,genre,bpm,key,lyrics\nsong.wav,from csv,rock,90,C major,csv words"
    )
    path.with_suffix(".txt").write_text("caption: from text\nbpm: 100\nlyrics:\ntext words")
    path.with_suffix(".json").write_text(json.dumps({"caption": "from json", "bpm": None, "keyscale": ""}))
    sample = only(tmp_path)
    assert (sample.caption, sample.bpm, sample.genre, sample.keyscale) == ("from json", 100, "rock", "C major")
    assert (sample.lyrics, sample.raw_lyrics, sample.is_instrumental) == ("text words", "text words", False)
    assert sample.sources == {
        "caption": "song.json",
        "bpm": "song.txt",
        "genre": "labels.csv",
        "keyscale": "labels.csv",
        "lyrics": "song.txt",
        "is_instrumental": "song.txt",
    }


def test_who_wrote_a_label_is_taken_over_from_the_sidecar(tmp_path):
    path = song(tmp_path / "song.wav")
    labels = {"caption": "a song", "genre": "rock", "sources": {"caption": "gemini"}}
    path.with_suffix(".json").write_text(json.dumps(labels))
    assert only(tmp_path).sources == {"caption": "gemini", "genre": "song.json"}


def test_a_captioner_that_was_not_asked_for_lyrics_does_not_take_them_away(tmp_path):
    path = song(tmp_path / "song.wav")
    path.with_suffix(".txt").write_text("my words")
    labels = {"caption": "a song", "lyrics": "", "language": "unknown", "is_instrumental": True}
    path.with_suffix(".json").write_text(json.dumps(labels))
    sample = only(tmp_path)
    assert (sample.lyrics, sample.is_instrumental, sample.labeled) == ("my words", False, True)


def test_words_are_not_given_up_for_an_instrumental_mark_and_that_is_told(tmp_path):
    path = song(tmp_path / "song.wav")
    path.with_suffix(".txt").write_text("my words")
    path.with_suffix(".json").write_text(json.dumps({"lyrics": "[Instrumental]", "is_instrumental": True}))
    found = scan_folder(tmp_path)
    assert found.dataset.samples[0].lyrics == "my words"
    assert "song.txt has lyrics, which are used" in told(found)["song.json"]


@pytest.mark.parametrize("caption", ["", "   ", "Error: out of memory", "error: no model", "\u274c failed"])
def test_an_empty_or_failed_caption_does_not_count_as_a_label(tmp_path, caption):
    path = song(tmp_path / "song.wav")
    path.with_suffix(".json").write_text(json.dumps({"caption": caption, "genre": "rock"}))
    sample = only(tmp_path)
    assert (sample.labeled, sample.caption, sample.genre) == (False, "", "rock")


def test_a_broken_sidecar_is_told_and_everything_else_is_used(tmp_path):
    for name in ("a", "b", "c", "d", "e"):
        song(tmp_path / f"{name}.wav")
    (tmp_path / "a.json").write_text("{not json")
    (tmp_path / "e.json").write_text("[1, 2]")
    (tmp_path / "b.wav.json").write_text('{"bpm": ' + "9" * 5000 + "}")
    (tmp_path / "c.json").write_text(
        json.dumps({"caption": "good", "bpm": "fast", "is_instrumental": "maybe", "genre": {}})
    )
    (tmp_path / "d.json").write_bytes(json.dumps({"caption": "caf\u00e9"}, ensure_ascii=False).encode("latin-1"))
    found = scan_folder(tmp_path)
    captions = [sample.caption for sample in found.dataset.samples]
    assert captions == ["", "", "good", "caf\u00e9", ""]
    messages = [f"{problem.path.name} {problem.message}" for problem in found.problems]
    for part in (
        "a.json is not valid JSON",
        "b.wav.json is not valid JSON",
        "e.json does not hold",
        "c.json bpm must be a number, not 'fast'",
        "c.json is_instrumental must be true or false",
        "c.json genre must be text",
        "d.json is not UTF-8",
    ):
        assert any(message.startswith(part) for message in messages), (part, messages)


def test_unusable_sound_files_are_told_by_name_and_the_rest_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    song(tmp_path / "good.wav")
    bad_files.empty(tmp_path / "empty.wav")
    bad_files.text_named_audio(tmp_path / "list.mp3")
    bad_files.text_named_audio(tmp_path / "phone.m4a")
    bad_files.too_short(tmp_path / "short.wav")
    bad_files.truncated(tmp_path / "cut.wav")
    found = scan_folder(tmp_path)
    assert [sample.filename for sample in found.dataset.samples] == ["good.wav"]
    assert {name: message[:19] for name, message in told(found).items()} == {
        "cut.wav": "is damaged or cut o",
        "empty.wav": "is empty",
        "list.mp3": "is not a sound file",
        "phone.m4a": ".m4a files need ffm",
        "short.wav": "is 0.20 s long, les",
    }
    assert found.counts == {"songs": 1, "labelled": 0, "with_lyrics": 0, "in_tables": 0, "with_json": 0}


def test_no_song_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(DatasetError, match="is not a folder"):
        scan_folder(tmp_path / "absent")
    with pytest.raises(DatasetError, match="holds no songs"):
        scan_folder(tmp_path)
    bad_files.empty(tmp_path / "empty.wav")
    with pytest.raises(DatasetError, match="none of the 1 sound files .* can be used: .*empty.wav is empty"):
        scan_folder(tmp_path)


def test_links_that_lead_out_of_the_folder_are_refused(tmp_path):
    inside, outside = tmp_path / "set", tmp_path / "elsewhere"
    song(inside / "song.wav")
    secret = song(outside / "other.wav").with_suffix(".txt")
    secret.write_text("a secret")
    (inside / "stolen.wav").symlink_to(outside / "other.wav")
    (inside / "song.txt").symlink_to(secret)
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "gone.wav").symlink_to(inside / "nowhere.wav")
    (inside / "self.wav").symlink_to(inside / "self.wav")
    (inside / "twin.wav").symlink_to(inside / "song.wav")
    found = scan_folder(inside)
    assert [(sample.filename, sample.raw_lyrics) for sample in found.dataset.samples] == [
        ("song.wav", ""),
        ("twin.wav", ""),
    ]
    assert set(told(found)) == {"stolen.wav", "song.txt", "folder", "loop", "gone.wav", "self.wav"}


def test_a_lost_caption_and_a_name_that_is_not_unicode_are_told(tmp_path):
    song(tmp_path / "song.wav")
    (tmp_path / "sogn.caption.txt").write_text("a caption")
    song(tmp_path / "name.wav").rename(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav"))
    found = scan_folder(tmp_path)
    assert set(told(found)) == {"sogn.caption.txt", "caf?.wav"}
    assert len(found.dataset.samples) == 1


@pytest.mark.root
def test_what_may_not_be_read_is_told():
    code = """
import sys, pathlib
from acestep.dataset.scan import scan_folder
for problem in scan_folder(pathlib.Path(sys.argv[1])).problems:
    print(problem.path.name, problem.message)
"""
    with bad_files.public_folder() as folder:
        bad_files.song(folder / "good.wav")
        closed = [bad_files.song(folder / "closed.wav"), folder / "good.json", folder / "good.txt", folder / "x.csv"]
        closed.append(folder / "private")
        (folder / "private").mkdir()
        bad_files.song(folder / "listed" / "song.wav")
        (folder / "listed").chmod(0o744)
        for path in closed:
            path.touch()
            path.chmod(0)
        answer = bad_files.run_unprivileged(code, folder)
    lines = sorted(line for line in answer.stdout.splitlines() if "Permission denied" in line)
    assert [line.split()[0] for line in lines] == [
        "closed.wav",
        "good.json",
        "good.txt",
        "private",
        "song.wav",
        "x.csv",
    ], answer


def test_scanning_and_storing_do_not_import_torch(tmp_path):
    song(tmp_path / "song.wav")
    code = """
import pathlib, sys
from acestep.dataset import prompt, scan, store
folder = pathlib.Path(sys.argv[1])
store.write_dataset(folder / "set.json", scan.scan_folder(folder).dataset)
print("torch" in sys.modules)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, cwd=bad_files.PROJECT
    )
    assert answer.stdout.strip() == "False", answer.stderr
