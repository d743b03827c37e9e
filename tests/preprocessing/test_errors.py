"""Bad songs, missing labels, full disks, closed folders: each is told by name, and nothing else suffers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from acestep.core.errors import CheckpointError, DatasetError, DiskFull
from acestep.core.events import Event, ItemFailed, Progressed, Saved
from acestep.dataset.sample import Dataset
from acestep.dataset.scan import scan_folder
from acestep.preprocessing.pipeline import preprocess
from acestep.tensors.manifest import read_manifest
from tests import bad_files
from tests.bad_files import run_unprivileged, song
from tests.preprocessing.conftest import Listener, Workshop, label, tensors


def changed(dataset: Dataset, number: int, **values: Any) -> Dataset:
    samples = list(dataset.samples)
    samples[number] = samples[number].model_copy(update=values)
    return dataset.model_copy(update={"samples": samples})


def failures(listener: Listener) -> dict[str, ItemFailed]:
    return {event.item: event for event in listener.events if isinstance(event, ItemFailed)}


def test_bad_songs_are_left_out_by_name_and_the_rest_goes_on(encoded: Path, workshop: Workshop) -> None:
    dataset = scan_folder(workshop.songs).dataset
    good = dataset.samples[0]
    bad = {
        "text.wav": bad_files.text_named_audio,
        "nan.wav": bad_files.with_nan,
        "silence.wav": bad_files.silent,
        "short.wav": bad_files.too_short,
        "cut.flac": bad_files.truncated,
        "gone.wav": lambda path: path,
    }
    for name, make in bad.items():
        make(workshop.songs / name)
        extra = good.model_copy(update={"id": name[:4], "audio_path": str(workshop.songs / name), "filename": name})
        dataset = dataset.model_copy(update={"samples": [extra, *dataset.samples]})
    listener = Listener()
    result = preprocess(dataset, workshop.songs, workshop.job(encoded), listener)
    assert set(failures(listener)) == set(bad)
    assert [item["item"] for item in result["failed"]] == list(failures(listener))
    assert all(event.message and event.hint for event in failures(listener).values())
    assert (result["songs"], result["ready"], result["made"]) == (8, 2, 0)
    assert len(read_manifest(encoded).paths) == 2


def test_without_one_usable_song_the_run_fails_and_writes_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = tmp_path / "songs"
    label(bad_files.silent(folder / "a.wav"), "nothing")
    workshop = Workshop(folder, tiny_checkpoint)
    with pytest.raises(DatasetError, match=r"none of 1 songs can be used \(a.wav: is silent\)") as caught:
        workshop.run(tmp_path / "out")
    assert caught.value.hint
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_songs_without_a_caption_are_refused_with_the_way_out(encoded: Path, workshop: Workshop) -> None:
    song(workshop.songs / "bare.wav", 1.1)
    listener = Listener()
    result = workshop.run(encoded, listener)
    assert list(failures(listener)) == ["bare.wav"]
    assert "caption" in failures(listener)["bare.wav"].message
    assert "--include-unlabelled" in failures(listener)["bare.wav"].hint
    assert result["ready"] == 2


def test_unlabelled_songs_without_a_tag_cannot_be_described(workshop: Workshop, tmp_path: Path) -> None:
    song(workshop.songs / "bare.wav", 1.1)
    with pytest.raises(DatasetError, match="1 songs have no caption, and there is no tag"):
        workshop.run(tmp_path / "out", include_unlabelled=True, tag="")
    assert not (tmp_path / "out").exists()


def test_two_songs_of_one_id_do_not_overwrite_each_other(encoded: Path, workshop: Workshop) -> None:
    dataset = scan_folder(workshop.songs).dataset
    listener, before = Listener(), tensors(encoded)
    doubled = changed(dataset, 1, id=dataset.samples[0].id.upper())
    preprocess(doubled, workshop.songs, workshop.job(encoded), listener)
    (event,) = failures(listener).values()
    assert event.item == "sub/two.flac"
    assert "one.wav" in event.message
    assert tensors(encoded) == before


def test_a_missing_model_is_told_before_anything_is_written(songs: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Workshop(songs, tmp_path / "no model").run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.root
def test_too_little_room_is_told_before_the_start(small_disk: Path, workshop: Workshop) -> None:
    (small_disk / "other").write_bytes(bytes(4 * 2**20))
    with pytest.raises(DiskFull, match="needs 10 MiB, the disk has 8 MiB left"):
        workshop.run(small_disk / "out")
    assert not (small_disk / "out").exists()


@pytest.mark.root
def test_a_disk_that_fills_up_ends_the_run_and_harms_nothing(
    small_disk: Path, workshop: Workshop, encoded: Path
) -> None:
    filler = small_disk / "other"

    def fill(event: Event) -> bool:
        if isinstance(event, Progressed):
            with suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return False

    out = small_disk / "out"
    with pytest.raises(DiskFull):
        workshop.run(out, Listener(stop_when=fill))
    (kept,) = read_manifest(out).paths
    assert kept.read_bytes() == (encoded / kept.name).read_bytes()
    assert [path.name for path in out.iterdir() if path.suffix == ".tmp"] == []
    filler.unlink()
    listener = Listener()
    workshop.run(out, listener)
    assert len(listener.said(Saved)) == 1
    assert tensors(out) == tensors(encoded)


READ_ONLY = """
import sys
from pathlib import Path
from acestep.core.errors import NotWritable
from acestep.core.events import Event
from acestep.preprocessing.builder import DatasetBuilder
builder = DatasetBuilder()
builder.scan(Path(sys.argv[1]), custom_tag="x")
try:
    builder.preprocess(sys.argv[2], Path(sys.argv[3]), seed=7)
except NotWritable as error:
    print("refused:", error, error.hint)
"""


@pytest.mark.root
def test_a_read_only_folder_is_told_before_any_work_and_is_not_touched(
    workshop: Workshop, standard: tuple[Path, Any, Listener]
) -> None:
    with bad_files.public_folder() as public:
        songs, out, models = public / "songs", public / "out", public / "models"
        shutil.copytree(workshop.songs, songs)
        shutil.copytree(standard[0], out)
        shutil.copytree(workshop.checkpoint.parent, models)
        subprocess.run(["chmod", "-R", "a+rX", str(public)], check=True)
        before = tensors(out)
        done = run_unprivileged(READ_ONLY, songs, models / workshop.checkpoint.name, out)
        assert done.stdout.startswith(f"refused: {out}"), done.stderr
        assert "Choose a folder that you may write to" in done.stdout
        assert tensors(out) == before
