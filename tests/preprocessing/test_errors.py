"""Unusable audio, missing labels, full disks, read-only folders: reported by name, other samples unaffected."""

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
from tests.preprocessing.conftest import Listener, Preprocessor, label, tensors


def with_changed_sample(dataset: Dataset, number: int, **values: Any) -> Dataset:
    samples = list(dataset.samples)
    samples[number] = samples[number].model_copy(update=values)
    return dataset.model_copy(update={"samples": samples})


def failures(listener: Listener) -> dict[str, ItemFailed]:
    return {event.item: event for event in listener.events if isinstance(event, ItemFailed)}


def test_unusable_audio_is_reported_by_name_and_the_other_samples_are_encoded(
    encoded: Path, preprocessor: Preprocessor
) -> None:
    dataset = scan_folder(preprocessor.audio_dir).dataset
    good = dataset.samples[0]
    bad = {
        "text.wav": bad_files.text_named_audio,
        "nan.wav": bad_files.with_nan,
        "silence.wav": bad_files.silent,
        "short.wav": bad_files.too_short,
        "gone.wav": lambda path: path,
    }
    for name, make in bad.items():
        make(preprocessor.audio_dir / name)
        extra = good.model_copy(
            update={"id": name[:4], "audio_path": str(preprocessor.audio_dir / name), "filename": name}
        )
        dataset = dataset.model_copy(update={"samples": [extra, *dataset.samples]})
    listener = Listener()
    result = preprocess(dataset, preprocessor.audio_dir, preprocessor.job(encoded), listener)
    assert set(failures(listener)) == set(bad)
    assert [item["item"] for item in result["failed"]] == list(failures(listener))
    assert all(event.message and event.hint for event in failures(listener).values())
    assert (result["songs"], result["ready"], result["made"]) == (7, 2, 0)
    assert len(read_manifest(encoded).paths) == 2


def test_without_a_usable_sample_the_job_fails_and_writes_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = tmp_path / "songs"
    label(bad_files.silent(folder / "a.wav"), "nothing")
    preprocessor = Preprocessor(folder, tiny_checkpoint)
    with pytest.raises(DatasetError, match=r"none of 1 samples can be used \(a.wav: is silent\)") as caught:
        preprocessor.run(tmp_path / "out")
    assert caught.value.hint
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_samples_without_a_caption_fail_with_a_hint(encoded: Path, preprocessor: Preprocessor) -> None:
    song(preprocessor.audio_dir / "bare.wav", 1.1)
    listener = Listener()
    result = preprocessor.run(encoded, listener)
    assert list(failures(listener)) == ["bare.wav"]
    assert "caption" in failures(listener)["bare.wav"].message
    assert "--include-unlabelled" in failures(listener)["bare.wav"].hint
    assert result["ready"] == 2


def test_including_unlabeled_samples_requires_a_tag(preprocessor: Preprocessor, tmp_path: Path) -> None:
    song(preprocessor.audio_dir / "bare.wav", 1.1)
    with pytest.raises(DatasetError, match="1 samples have no caption, and there is no tag"):
        preprocessor.run(tmp_path / "out", include_unlabelled=True, tag="")
    assert not (tmp_path / "out").exists()


def test_two_samples_with_the_same_id_do_not_overwrite_each_other(encoded: Path, preprocessor: Preprocessor) -> None:
    dataset = scan_folder(preprocessor.audio_dir).dataset
    listener, before = Listener(), tensors(encoded)
    duplicated = with_changed_sample(dataset, 1, id=dataset.samples[0].id.upper())
    preprocess(duplicated, preprocessor.audio_dir, preprocessor.job(encoded), listener)
    (event,) = failures(listener).values()
    assert event.item == "sub/two.flac"
    assert "one.wav" in event.message
    assert tensors(encoded) == before


def test_a_missing_base_model_fails_before_anything_is_written(audio_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        Preprocessor(audio_dir, tmp_path / "no model").run(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], stdin=subprocess.DEVNULL, check=True
    )
    yield folder
    subprocess.run(["umount", str(folder)], stdin=subprocess.DEVNULL, check=True)


@pytest.mark.root
def test_insufficient_disk_space_fails_before_encoding(small_disk: Path, preprocessor: Preprocessor) -> None:
    (small_disk / "other").write_bytes(bytes(4 * 2**20))
    with pytest.raises(DiskFull, match="needs 10 MiB, the disk has 8 MiB left"):
        preprocessor.run(small_disk / "out")
    assert not (small_disk / "out").exists()


@pytest.mark.root
def test_a_full_disk_ends_the_job_and_keeps_intact_files(
    small_disk: Path, preprocessor: Preprocessor, encoded: Path
) -> None:
    ballast = small_disk / "other"

    def fill(event: Event) -> bool:
        if isinstance(event, Progressed):
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        return False

    out = small_disk / "out"
    with pytest.raises(DiskFull):
        preprocessor.run(out, Listener(stop_when=fill))
    (saved,) = read_manifest(out).paths
    assert saved.read_bytes() == (encoded / saved.name).read_bytes()
    assert [path.name for path in out.iterdir() if path.suffix == ".tmp"] == []
    ballast.unlink()
    listener = Listener()
    preprocessor.run(out, listener)
    assert len(listener.messages(Saved)) == 1
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
    print("NotWritable:", error, error.hint)
"""


@pytest.mark.root
def test_a_read_only_folder_fails_before_encoding_and_stays_unchanged(
    preprocessor: Preprocessor, standard: tuple[Path, Any, Listener]
) -> None:
    with bad_files.public_folder() as public:
        audio_dir, out, models = public / "songs", public / "out", public / "models"
        shutil.copytree(preprocessor.audio_dir, audio_dir)
        shutil.copytree(standard[0], out)
        shutil.copytree(preprocessor.checkpoint.parent, models)
        subprocess.run(["chmod", "-R", "a+rX", str(public)], stdin=subprocess.DEVNULL, check=True)
        before = tensors(out)
        done = run_unprivileged(READ_ONLY, audio_dir, models / preprocessor.checkpoint.name, out)
        assert done.stdout.startswith(f"NotWritable: {out}"), done.stderr
        assert "Choose a folder that you may write to" in done.stdout
        assert tensors(out) == before
