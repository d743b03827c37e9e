import json
from pathlib import Path

import pytest

from acestep.core.errors import DatasetError
from acestep.dataset import store
from acestep.dataset.sample import Dataset, DatasetMetadata, Sample
from acestep.dataset.scan import scan_folder
from acestep.dataset.store import parse_dataset, read_dataset, write_dataset
from tests import bad_files

# The keys that other programs read.
METADATA = {"name", "custom_tag", "tag_position", "created_at", "num_samples", "all_instrumental", "genre_ratio"}
SAMPLE = {"id", "audio_path", "filename", "caption", "genre", "lyrics", "raw_lyrics", "formatted_lyrics", "bpm"}
SAMPLE |= {"keyscale", "timesignature", "duration", "language", "is_instrumental", "custom_tag", "labeled"}
SAMPLE |= {"prompt_override"}


def write_and_read(folder: Path, data: object) -> Dataset:
    (folder / "set.json").write_text(json.dumps(data), encoding="utf-8")
    return read_dataset(folder / "set.json")


def test_the_file_has_the_documented_keys_and_the_current_time_and_count(tmp_path):
    metadata = DatasetMetadata(name="x", genre_ratio=30, num_samples=99, created_at="long ago")
    write_dataset(tmp_path / "new" / "set.json", Dataset(metadata=metadata, samples=[Sample(id="a", caption="\u00e9")]))
    text = (tmp_path / "new" / "set.json").read_text(encoding="utf-8")
    data = json.loads(text)
    assert "\u00e9" in text
    assert set(data) == {"metadata", "samples"}
    assert set(data["metadata"]) == METADATA
    assert set(data["samples"][0]) == {*SAMPLE, "sources"}
    assert data["metadata"]["num_samples"] == 1
    assert data["metadata"]["created_at"].startswith("20")
    assert metadata.created_at == "long ago"
    assert read_dataset(tmp_path / "new" / "set.json").metadata.genre_ratio == 30


def test_missing_and_null_keys_get_defaults(tmp_path):
    sample = {"id": "1", "filename": "a.wav", "lyrics": None, "caption": None, "is_instrumental": None, "bpm": ""}
    dataset = write_and_read(tmp_path, {"metadata": {"name": "old", "genre_ratio": None}, "samples": [sample, {}]})
    assert (dataset.metadata.name, dataset.metadata.genre_ratio, dataset.metadata.tag_position) == ("old", 0, "prepend")
    first, second = dataset.samples
    assert (first.lyrics, first.caption, first.is_instrumental, first.bpm) == ("[Instrumental]", "", True, None)
    assert second.language == "unknown"


def test_values_of_other_types_are_converted(tmp_path):
    sample = {"bpm": "120.4", "timesignature": 4, "duration": "183.0", "is_instrumental": "no", "prompt_override": ""}
    (result,) = write_and_read(tmp_path, [sample]).samples
    assert (result.bpm, result.timesignature, result.duration, result.is_instrumental) == (
        120,
        "4",
        183,
        False,
    )
    assert result.prompt_override is None


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"samples": s}, lambda s: {"samples": s, "metadata": None}])
def test_plain_lists_and_files_without_metadata_are_read(tmp_path, wrap):
    dataset = write_and_read(tmp_path, wrap([{"id": "ab12cd34", "caption": "c", "labeled": True, "repeat": 2}]))
    assert dataset.metadata == DatasetMetadata()
    assert dataset.labeled_samples[0].id == "ab12cd34"


def test_unknown_keys_are_kept(tmp_path):
    dataset = write_and_read(tmp_path, {"metadata": {"mood": "x"}, "samples": [{"id": "1", "repeat": 2, "stem": [1]}]})
    write_dataset(tmp_path / "again.json", dataset)
    data = json.loads((tmp_path / "again.json").read_text())
    assert (data["metadata"]["mood"], data["samples"][0]["repeat"], data["samples"][0]["stem"]) == ("x", 2, [1])


def test_a_sample_with_an_empty_or_error_caption_is_not_labeled(tmp_path):
    captions = ["", "Error: no memory", "a song"]
    dataset = write_and_read(tmp_path, [{"id": str(n), "caption": c, "labeled": True} for n, c in enumerate(captions)])
    assert [sample.labeled for sample in dataset.samples] == [False, False, True]


def test_ids_become_unique_and_safe_file_names(tmp_path):
    ids = ["../../evil", "same", "SAME", "", None, "a/b"]
    dataset = write_and_read(tmp_path, [{"id": i, "audio_path": f"/x/{n}.wav"} for n, i in enumerate(ids)])
    result = [sample.id for sample in dataset.samples]
    assert len({name.casefold() for name in result}) == 6
    assert not any("/" in name or "\\" in name or name.startswith(".") for name in result)
    assert result == [sample.id for sample in read_dataset(tmp_path / "set.json").samples]


def test_audio_is_found_by_absolute_relative_and_outdated_paths(tmp_path):
    audio = bad_files.song(tmp_path / "deep" / "song.wav", 1.5, rate=8000)
    for path in (
        str(audio),
        "deep/song.wav",
        "/gone/before/deep/song.wav",
        r"D:\music\deep\song.wav",
        r"deep\song.wav",
    ):
        (sample,) = write_and_read(tmp_path, [{"audio_path": path}]).samples
        assert (Path(sample.audio_path), sample.filename) == (audio, "song.wav"), path
    (sample,) = write_and_read(tmp_path / "deep", [{"audio_path": "/gone/song.wav", "filename": "song.wav"}]).samples
    assert Path(sample.audio_path) == audio


@pytest.mark.parametrize("path", ["/gone/song.wav", r"D:\gone\song.wav", "/gone/../../../etc/passwd"])
def test_a_path_that_is_not_found_is_kept(tmp_path, path):
    (sample,) = write_and_read(tmp_path, [{"audio_path": path}]).samples
    assert sample.audio_path == path


def test_a_folder_can_be_moved_with_its_dataset_file(tmp_path):
    bad_files.song(tmp_path / "set" / "one" / "song.wav", 1.5, rate=8000)
    bad_files.song(tmp_path / "set" / "two" / "song.wav", 1.5, rate=8000)
    write_dataset(tmp_path / "set" / "set.json", scan_folder(tmp_path / "set").dataset)
    (tmp_path / "set").rename(tmp_path / "moved")
    paths = [sample.audio_path for sample in read_dataset(tmp_path / "moved" / "set.json").samples]
    assert paths == [str(tmp_path / "moved" / name / "song.wav") for name in ("one", "two")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{broken", "is not valid JSON"),
        ('"text"', "is not a dataset"),
        ('{"samples": {}}', "is not a dataset"),
        ('{"samples": []}', "contains no samples"),
        ("[5]", "sample 1: it must be a valid dictionary"),
        (
            '[{"filename": "a.wav", "bpm": "fast", "duration": []}]',
            r"sample 1 \(a.wav\): bpm must be a number, not 'fast'; .*duration",
        ),
        (
            '{"metadata": {"genre_ratio": 500}, "samples": [{}]}',
            "metadata: genre_ratio must be less than or equal to 100",
        ),
    ],
)
def test_an_invalid_file_is_rejected_with_all_its_errors(tmp_path, content, reason):
    (tmp_path / "set.json").write_text(content)
    with pytest.raises(DatasetError, match=reason) as caught:
        read_dataset(tmp_path / "set.json")
    assert "set.json" in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        read_dataset(tmp_path / "absent.json")


@pytest.mark.parametrize(
    "path",
    ["\\\\host\\share\\song.wav", "//host/share/song.wav", "\\/host/share/song.wav", "\\\\?\\UNC\\host\\song.wav"],
)
def test_network_paths_are_not_opened(tmp_path, monkeypatch, path):
    asked = []
    monkeypatch.setattr(store, "_is_file", lambda asked_for: asked.append(str(asked_for)))
    for sample in ({"audio_path": path}, {"filename": path}):
        dataset = parse_dataset([{**sample, "caption": "a"}], tmp_path / "dataset.json", tmp_path)
        assert dataset.samples[0].audio_path == str(tmp_path / "song.wav")
    assert asked
    assert all(name.startswith(str(tmp_path)) for name in asked)
