from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.core.errors import TensorError
from acestep.tensors.manifest import Sizes, has_samples, read_manifest, sample_details, write_manifest
from acestep.tensors.record import TensorRecord, encode_record
from tests.bad_files import PROJECT


def write_files(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"PK")


def write_samples_list(folder: Path, samples: Any, **extra: Any) -> Path:
    (folder / "manifest.json").write_text(json.dumps({"samples": samples, **extra}))
    return folder


def read_names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in read_manifest(folder).paths]


def test_a_manifest_is_written_in_version_2_and_read_back(tmp_path: Path) -> None:
    record = TensorRecord(torch.zeros(5, 64), torch.zeros(5, 128), torch.zeros(3, 16), {"caption": "tag, \u00fc"})
    data = encode_record(record)
    (tmp_path / "ab12.pt").write_bytes(data)
    write_manifest(
        tmp_path,
        [sample_details("ab12.pt", record, data)],
        metadata={"name": "mine", "custom_tag": "tag"},
        preprocessing={"max_duration": 240},
    )
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content.pop("created_at")
    assert content == {
        "version": 2,
        "metadata": {"name": "mine", "custom_tag": "tag"},
        "samples": ["ab12.pt"],
        "sample_details": [
            {
                "path": "ab12.pt",
                "filename": "ab12.pt",
                "file_size_bytes": len(data),
                "shapes": {
                    "target_latents": [5, 64],
                    "attention_mask": [5],
                    "encoder_hidden_states": [3, 16],
                    "encoder_attention_mask": [3],
                    "context_latents": [5, 128],
                },
                "dtype": "torch.float32",
                "md5": hashlib.md5(data).hexdigest(),
                "sample_metadata": {"caption": "tag, \u00fc"},
            }
        ],
        "num_samples": 1,
        "total_size_bytes": len(data),
        "preprocessing": {"max_duration": 240},
    }
    manifest = read_manifest(tmp_path)
    assert manifest.paths == [tmp_path / "ab12.pt"]
    assert manifest.sizes == Sizes(longest=5, tokens=3, songs=1, num_bytes=4 * (5 * 64 + 3 * 16))
    assert (manifest.version, manifest.metadata["custom_tag"], manifest.preprocessing) == (
        2,
        "tag",
        {"max_duration": 240},
    )
    assert not manifest.problems


def test_all_forms_of_entries_are_resolved_inside_the_folder(tmp_path: Path) -> None:
    write_files(tmp_path, "a.pt", "b.pt", "c.pt", "d.pt", "sub/e.pt", "f.pt", "unlisted.pt")
    entries = [
        "a.pt",
        {"path": "b.pt"},
        "C:\\Users\\me\\tensors\\c.pt",
        "/home/another/tensors/d.pt",
        "sub\\e.pt",
        "./datasets/preprocessed_tensors/f.pt",
        "a.pt",
    ]
    assert read_names(write_samples_list(tmp_path, entries)) == ["a.pt", "b.pt", "c.pt", "d.pt", "sub/e.pt", "f.pt"]
    assert read_manifest(tmp_path).version == 1


def test_without_a_manifest_all_complete_tensor_files_are_used(tmp_path: Path) -> None:
    write_files(tmp_path, "b.pt", "a.pt", "x.tmp.pt", ".hidden.pt", "_tmp_pass1/c.tmp.pt")
    assert read_names(tmp_path) == ["a.pt", "b.pt"]
    assert read_manifest(tmp_path).version == 0


@pytest.mark.parametrize("text", ["{broken", "[]", '{"samples": 3}', '{"version": 2}'])
def test_an_invalid_manifest_is_reported_and_all_tensor_files_are_used(tmp_path: Path, text: str) -> None:
    write_files(tmp_path, "a.pt")
    (tmp_path / "manifest.json").write_text(text)
    assert read_names(tmp_path) == ["a.pt"]
    (problem,) = read_manifest(tmp_path).problems
    assert "manifest.json" in problem


def test_missing_files_are_reported_by_name_and_the_others_are_used(tmp_path: Path) -> None:
    write_files(tmp_path, "a.pt")
    manifest = read_manifest(write_samples_list(tmp_path, ["missing.pt", "a.pt", 7], version=2))
    assert manifest.paths == [tmp_path / "a.pt"]
    assert manifest.missing == ["missing.pt", "7"]
    assert all("manifest.json" in problem for problem in manifest.problems)


@pytest.mark.parametrize("entry", ["../secret.pt", "sub/../../secret.pt", "..\\secret.pt", "/tmp/../x/secret.pt"])
def test_an_entry_outside_the_folder_is_rejected(tmp_path: Path, entry: str) -> None:
    write_files(tmp_path, "secret.pt", "tensors/a.pt")
    with pytest.raises(TensorError, match="refers to a file outside its folder"):
        read_manifest(write_samples_list(tmp_path / "tensors", ["a.pt", entry]))


def test_an_absolute_entry_is_never_read_outside_the_folder(tmp_path: Path) -> None:
    write_files(tmp_path, "secret.pt", "tensors/a.pt")
    manifest = read_manifest(write_samples_list(tmp_path / "tensors", ["a.pt", str(tmp_path / "secret.pt")]))
    assert manifest.paths == [tmp_path / "tensors" / "a.pt"]
    assert manifest.missing == [str(tmp_path / "secret.pt")]


def test_a_folder_without_samples_is_an_error_with_a_hint(tmp_path: Path) -> None:
    for folder in (tmp_path / "does not exist", tmp_path, write_samples_list(tmp_path, ["missing.pt"])):
        with pytest.raises(TensorError) as caught:
            read_manifest(folder)
        assert str(folder) in str(caught.value)
        assert caught.value.hint


def test_the_manifest_module_does_not_import_torch() -> None:
    code = "import sys, acestep.tensors.manifest, acestep.preprocessing.configs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, cwd=PROJECT, check=True)


@pytest.mark.parametrize(
    "details", [None, [], [{}], [{"shapes": {"target_latents": [1e400]}, "dtype": "torch.float32"}]]
)
def test_a_manifest_without_the_sizes_of_its_samples_is_read_without_them(tmp_path: Path, details: Any) -> None:
    write_files(tmp_path, "a.pt")
    assert read_manifest(write_samples_list(tmp_path, ["a.pt"], sample_details=details)).sizes is None


def test_a_folder_has_samples_if_its_manifest_can_be_read(tmp_path: Path) -> None:
    assert not has_samples(tmp_path)
    assert not has_samples(tmp_path / "missing")
    write_files(tmp_path, "below/a.pt")
    assert not has_samples(tmp_path)
    assert has_samples(write_samples_list(tmp_path, ["below/a.pt"]))
    write_files(tmp_path, "b.pt")
    (tmp_path / "manifest.json").unlink()
    assert has_samples(tmp_path)
