"""A file is read again only if its size or time has changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from acestep.core.errors import TensorError
from acestep.tensors.index import NAME, TensorIndex
from acestep.tensors.tensor_file import read_facts
from tests.tensors.test_tensor_file import write

OLD_NS = 10**18


def make_folder(folder: Path) -> Path:
    """Two old files and their index."""
    for number in range(2):
        os.utime(write(folder / f"{number}.pt", seed=number), ns=(OLD_NS, OLD_NS))
    index = TensorIndex(folder)
    for number in range(2):
        index.facts(f"{number}.pt")
    assert index.write() == ""
    return folder


def spoil(path: Path, time_ns: int) -> None:
    """Other content of the same size."""
    path.write_bytes(bytes(path.stat().st_size))
    os.utime(path, ns=(time_ns, time_ns))


def test_a_file_with_the_same_size_and_time_is_not_read_again(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    expected = read_facts(folder / "0.pt")
    spoil(folder / "0.pt", OLD_NS)
    assert TensorIndex.read(folder).facts("0.pt") == expected


def test_a_file_with_another_size_or_time_is_read_and_checked_again(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    spoil(folder / "0.pt", OLD_NS + 1)
    (folder / "1.pt").write_bytes(b"")
    os.utime(folder / "1.pt", ns=(OLD_NS, OLD_NS))
    index = TensorIndex.read(folder)
    for name in ("0.pt", "1.pt", "2.pt"):
        with pytest.raises(TensorError, match=name):
            index.facts(name)


def test_files_that_have_just_been_written_are_not_recorded(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    write(folder / "1.pt", seed=5)
    index = TensorIndex.read(folder)
    index.facts("1.pt")
    index.write()
    assert list(TensorIndex.read(folder).files) == ["0.pt"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{", "["),
        ('"version":1', '"version":2'),
        ('"kind":"tensor_index"', '"kind":"other"'),
        ('"columns":64', '"columns":65'),
        ('"dtype":"torch.float32"', '"dtype":"torch.int32"'),
        ('"rows":50', '"rows":-50'),
        ('"offset":', '"offset":-9'),
        ('"offset":', '"offset":9999'),  # behind the end of the file
    ],
)
def test_a_damaged_index_is_ignored(tmp_path: Path, old: str, new: str) -> None:
    folder = make_folder(tmp_path)
    text = (folder / NAME).read_text()
    assert old in text
    (folder / NAME).write_text(text.replace(old, new))
    index = TensorIndex.read(folder)
    assert index.files == {}
    assert index.facts("0.pt") == read_facts(folder / "0.pt")


def test_a_folder_that_cannot_be_written_gives_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path)
    index = TensorIndex.read(folder)
    index.put("0.pt", index.facts("0.pt"))
    monkeypatch.setattr("acestep.core.renames.replace", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
    assert NAME in index.write()
