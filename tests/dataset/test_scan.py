import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from acestep.core.errors import DatasetError
from acestep.dataset.scan import scan_folder
from tests import bad_files
from tests.audio.test_decode import encoded


def audio_file(path):
    return bad_files.song(path, 1.5, rate=8000)


def scan_single(folder, **options):
    (sample,) = scan_folder(folder, **options).dataset.samples
    return sample


def messages(result):
    return {problem.path.name: problem.message for problem in result.problems}


def test_audio_files_are_found_recursively_in_order_without_hidden_files(tmp_path):
    for name in ("b.wav", "a/z.flac", "a/b/c.mp3", "x.opus", ".hidden.wav", ".git/d.wav", "notes.txt", "E.AIFF"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("notes") if name == "notes.txt" else bad_files.song(path, rate=48_000)
    result = scan_folder(tmp_path, name="mine", custom_tag="zx", tag_position="append", genre_ratio=30)
    paths = [os.path.relpath(sample.audio_path, tmp_path) for sample in result.dataset.samples]
    assert paths == ["E.AIFF", "a/b/c.mp3", "a/z.flac", "b.wav", "x.opus"]
    assert result.problems == []
    meta = result.dataset.metadata
    assert (meta.name, meta.custom_tag, meta.tag_position, meta.genre_ratio, meta.num_samples) == (
        "mine",
        "zx",
        "append",
        30,
        5,
    )
    assert {(sample.custom_tag, sample.duration) for sample in result.dataset.samples} == {("zx", 2)}


def test_ids_are_the_same_in_each_scan_and_differ_for_equal_names_in_two_folders(tmp_path):
    audio_file(tmp_path / "one" / "song.wav")
    audio_file(tmp_path / "two" / "song.wav")
    first = [sample.id for sample in scan_folder(tmp_path).dataset.samples]
    audio_file(tmp_path / "aaa new.wav")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    second = [sample.id for sample in scan_folder(moved).dataset.samples]
    assert second[1:] == first
    assert len(set(second)) == 3
    assert all(len(name) == 8 and int(name, 16) >= 0 for name in second)


@pytest.mark.parametrize("name", bad_files.AWKWARD_NAMES)
def test_awkward_names_find_their_sidecars(tmp_path, name):
    path = audio_file(tmp_path / "a folder" / name)
    path.with_suffix(".txt").write_text("la la la")
    path.with_suffix(".json").write_text(json.dumps({"caption": "a song"}))
    sample = scan_single(tmp_path)
    assert (sample.filename, sample.lyrics, sample.caption) == (name, "la la la", "a song")


def test_a_sample_without_labels_is_not_labeled(tmp_path):
    audio_file(tmp_path / "song.wav")
    sample = scan_single(tmp_path)
    assert (sample.labeled, sample.caption, sample.sources) == (False, "", {})
    assert (sample.lyrics, sample.is_instrumental) == ("[Instrumental]", True)
    vocal = scan_single(tmp_path, all_instrumental=False)
    assert (vocal.lyrics, vocal.is_instrumental) == ("", False)


def test_json_takes_precedence_over_text_and_text_over_tables_with_sources_per_field(tmp_path):
    path = audio_file(tmp_path / "song.wav")
    (tmp_path / "labels.csv").write_text(
        "file,caption,genre,bpm,key,lyrics\nsong.wav,from csv,rock,90,C major,csv lyrics"
    )
    path.with_suffix(".txt").write_text("caption: from text\nbpm: 100\nlyrics:\ntext lyrics")
    path.with_suffix(".json").write_text(json.dumps({"caption": "from json", "bpm": None, "keyscale": ""}))
    sample = scan_single(tmp_path)
    assert (sample.caption, sample.bpm, sample.genre, sample.keyscale) == ("from json", 100, "rock", "C major")
    assert (sample.lyrics, sample.raw_lyrics, sample.is_instrumental) == ("text lyrics", "text lyrics", False)
    assert sample.sources == {
        "caption": "song.json",
        "bpm": "song.txt",
        "genre": "labels.csv",
        "keyscale": "labels.csv",
        "lyrics": "song.txt",
        "is_instrumental": "song.txt",
    }


def test_the_sources_in_a_sidecar_are_kept(tmp_path):
    path = audio_file(tmp_path / "song.wav")
    labels = {"caption": "a song", "genre": "rock", "sources": {"caption": "gemini"}}
    path.with_suffix(".json").write_text(json.dumps(labels))
    assert scan_single(tmp_path).sources == {"caption": "gemini", "genre": "song.json"}


def test_empty_lyrics_of_a_captioner_do_not_replace_lyrics(tmp_path):
    path = audio_file(tmp_path / "song.wav")
    path.with_suffix(".txt").write_text("my lyrics")
    labels = {"caption": "a song", "lyrics": "", "language": "unknown", "is_instrumental": True}
    path.with_suffix(".json").write_text(json.dumps(labels))
    sample = scan_single(tmp_path)
    assert (sample.lyrics, sample.is_instrumental, sample.labeled) == ("my lyrics", False, True)


def test_an_instrumental_marker_does_not_replace_lyrics_and_is_reported(tmp_path):
    path = audio_file(tmp_path / "song.wav")
    path.with_suffix(".txt").write_text("my lyrics")
    path.with_suffix(".json").write_text(json.dumps({"lyrics": "[Instrumental]", "is_instrumental": True}))
    result = scan_folder(tmp_path)
    assert result.dataset.samples[0].lyrics == "my lyrics"
    assert "song.txt has lyrics, which are used" in messages(result)["song.json"]


@pytest.mark.parametrize("caption", ["", "   ", "Error: out of memory", "error: no model", "\u274c failed"])
def test_an_empty_or_error_caption_is_not_a_label(tmp_path, caption):
    path = audio_file(tmp_path / "song.wav")
    path.with_suffix(".json").write_text(json.dumps({"caption": caption, "genre": "rock"}))
    sample = scan_single(tmp_path)
    assert (sample.labeled, sample.caption, sample.genre) == (False, "", "rock")


def test_a_damaged_sidecar_is_reported_and_other_labels_are_used(tmp_path):
    for name in ("a", "b", "c", "d", "e"):
        audio_file(tmp_path / f"{name}.wav")
    (tmp_path / "a.json").write_text("{not json")
    (tmp_path / "e.json").write_text("[1, 2]")
    (tmp_path / "b.wav.json").write_text('{"bpm": ' + "9" * 5000 + "}")
    (tmp_path / "c.json").write_text(
        json.dumps({"caption": "good", "bpm": "fast", "is_instrumental": "maybe", "genre": {}})
    )
    (tmp_path / "d.json").write_bytes(json.dumps({"caption": "caf\u00e9"}, ensure_ascii=False).encode("latin-1"))
    result = scan_folder(tmp_path)
    captions = [sample.caption for sample in result.dataset.samples]
    assert captions == ["", "", "good", "caf\u00e9", ""]
    reported = [f"{problem.path.name} {problem.message}" for problem in result.problems]
    for part in (
        "a.json is not valid JSON",
        "b.wav.json is not valid JSON",
        "e.json is not a label file",
        "c.json bpm must be a number, not 'fast'",
        "c.json is_instrumental must be true or false",
        "c.json genre must be text",
        "d.json is not UTF-8",
    ):
        assert any(message.startswith(part) for message in reported), (part, reported)


def test_unusable_audio_files_are_reported_by_name_and_the_others_are_used(tmp_path):
    audio_file(tmp_path / "good.wav")
    bad_files.empty(tmp_path / "empty.wav")
    bad_files.text_named_audio(tmp_path / "list.mp3")
    bad_files.text_named_audio(tmp_path / "phone.m4a")
    bad_files.too_short(tmp_path / "short.wav")
    result = scan_folder(tmp_path)
    assert [sample.filename for sample in result.dataset.samples] == ["good.wav"]
    assert {name: message[:19] for name, message in messages(result).items()} == {
        "empty.wav": "is empty",
        "list.mp3": "is not an audio fil",
        "phone.m4a": "is not an audio fil",
        "short.wav": "is 0.20 s long, les",
    }
    assert result.counts == {"songs": 1, "labelled": 0, "with_lyrics": 0, "in_tables": 0, "with_json": 0}


def test_no_usable_audio_file_is_an_error_with_the_reasons(tmp_path):
    with pytest.raises(DatasetError, match="is not a folder"):
        scan_folder(tmp_path / "absent")
    with pytest.raises(DatasetError, match="contains no audio files"):
        scan_folder(tmp_path)
    bad_files.empty(tmp_path / "empty.wav")
    with pytest.raises(DatasetError, match="none of the 1 audio files .* can be used: .*empty.wav is empty"):
        scan_folder(tmp_path)


def test_links_that_point_outside_the_folder_are_ignored(tmp_path):
    inside, outside = tmp_path / "set", tmp_path / "elsewhere"
    audio_file(inside / "song.wav")
    secret = audio_file(outside / "other.wav").with_suffix(".txt")
    secret.write_text("a secret")
    (inside / "stolen.wav").symlink_to(outside / "other.wav")
    (inside / "song.txt").symlink_to(secret)
    (inside / "folder").symlink_to(outside)
    (inside / "loop").symlink_to(inside)
    (inside / "gone.wav").symlink_to(inside / "nowhere.wav")
    (inside / "self.wav").symlink_to(inside / "self.wav")
    (inside / "twin.wav").symlink_to(inside / "song.wav")
    result = scan_folder(inside)
    assert [(sample.filename, sample.raw_lyrics) for sample in result.dataset.samples] == [
        ("song.wav", ""),
        ("twin.wav", ""),
    ]
    assert set(messages(result)) == {"stolen.wav", "song.txt", "folder", "loop", "gone.wav", "self.wav"}


def test_an_unmatched_caption_and_a_name_that_is_not_unicode_are_reported(tmp_path):
    audio_file(tmp_path / "song.wav")
    (tmp_path / "sogn.caption.txt").write_text("a caption")
    audio_file(tmp_path / "name.wav").rename(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.wav"))
    result = scan_folder(tmp_path)
    assert set(messages(result)) == {"sogn.caption.txt", "caf?.wav"}
    assert len(result.dataset.samples) == 1


@pytest.mark.root
def test_files_without_read_permission_are_reported():
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
        process = bad_files.run_unprivileged(code, folder)
    lines = sorted(line for line in process.stdout.splitlines() if "Permission denied" in line)
    assert [line.split()[0] for line in lines] == [
        "closed.wav",
        "good.json",
        "good.txt",
        "private",
        "song.wav",
        "x.csv",
    ], process


def test_scanning_and_writing_do_not_import_torch(tmp_path):
    audio_file(tmp_path / "song.wav")
    code = """
import pathlib, sys
from acestep.dataset import prompt, scan, store
folder = pathlib.Path(sys.argv[1])
store.write_dataset(folder / "set.json", scan.scan_folder(folder).dataset)
print("torch" in sys.modules)
"""
    process = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=bad_files.PROJECT,
    )
    assert process.stdout.strip() == "False", process.stderr


@pytest.mark.parametrize(
    "folder",
    ["@eaDir", "#recycle", "__MACOSX", "$RECYCLE.BIN", "System Volume Information", ".git", "venv/lib", "env/lib"],
)
def test_folders_of_systems_and_virtual_environments_are_skipped(tmp_path, folder):
    bad_files.song(tmp_path / "a.wav")
    bad_files.song(tmp_path / folder / "b.wav")
    (tmp_path / folder.split("/")[0] / "pyvenv.cfg").write_text("home = /usr/bin\n")
    found = scan_folder(tmp_path)
    assert [sample.filename for sample in found.dataset.samples] == ["a.wav"]
    assert found.problems == []


def test_every_decodable_format_becomes_a_sample_and_the_others_are_listed_as_not_used(tmp_path):
    decodable = ("a.wav", "b.wv", "c.webm", "d.mp4", "e.aifc", "f.mka")
    for name, kind in zip(decodable, ("wav", "wv", "webm", "mp4", "aiff", "matroska"), strict=True):
        codec = {"wv": "wavpack", "webm": "libopus", "mp4": "aac", "aiff": "pcm_s16be", "matroska": "flac"}
        content = encoded(bad_files.tone(), 48_000, kind, codec.get(kind, "pcm_s16le"))
        (tmp_path / name).write_bytes(content)
    not_used = ("a.mid", "b.ra", "c.xls", "d.docx", "e.ods")
    for name in (*not_used, "cover.jpg", "Thumbs.db.txt~", "desktop.ini"):
        (tmp_path / name).write_bytes(b"x" * 100)
    found = scan_folder(tmp_path)
    assert [sample.filename for sample in found.dataset.samples] == list(decodable)
    assert [problem.path.name for problem in found.problems if "is not used" in problem.message] == list(not_used)
    assert all(problem.hint for problem in found.problems)


@pytest.mark.parametrize("typed", ["\u202a{}", "file://{}", '"{}"'])
def test_a_pasted_folder_is_found_and_a_file_is_reported_with_its_folder(tmp_path, typed):
    audio_file(tmp_path / "song.wav")
    assert len(scan_folder(Path(typed.format(tmp_path))).dataset.samples) == 1
    with pytest.raises(DatasetError, match="song.wav is a file") as caught:
        scan_folder(Path(typed.format(tmp_path / "song.wav")))
    assert str(tmp_path) in caught.value.hint
