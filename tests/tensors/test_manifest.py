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
from acestep.tensors.manifest import read_manifest, sample_details, write_manifest
from acestep.tensors.record import TensorRecord, encode_record
from tests.bad_files import PROJECT


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"PK")


def listing(folder: Path, samples: Any, **more: Any) -> Path:
    (folder / "manifest.json").write_text(json.dumps({"samples": samples, **more}))
    return folder


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in read_manifest(folder).paths]


def test_a_written_manifest_is_version_2_of_the_existing_trainers_and_is_read_back(tmp_path: Path) -> None:
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
    found = read_manifest(tmp_path)
    assert found.paths == [tmp_path / "ab12.pt"]
    assert (found.version, found.metadata["custom_tag"], found.preprocessing) == (2, "tag", {"max_duration": 240})
    assert not found.problems


def test_entries_of_every_known_kind_are_found_inside_the_folder(tmp_path: Path) -> None:
    put(tmp_path, "a.pt", "b.pt", "c.pt", "d.pt", "sub/e.pt", "f.pt", "orphan.pt")
    kinds = [
        "a.pt",
        {"path": "b.pt"},
        "C:\\Users\\me\\tensors\\c.pt",
        "/home/another/tensors/d.pt",
        "sub\\e.pt",
        "./datasets/preprocessed_tensors/f.pt",
        "a.pt",
    ]
    assert names(listing(tmp_path, kinds)) == ["a.pt", "b.pt", "c.pt", "d.pt", "sub/e.pt", "f.pt"]
    assert read_manifest(tmp_path).version == 1


def test_without_a_manifest_every_finished_tensor_of_the_folder_counts(tmp_path: Path) -> None:
    put(tmp_path, "b.pt", "a.pt", "x.tmp.pt", ".hidden.pt", "_tmp_pass1/c.tmp.pt")
    assert names(tmp_path) == ["a.pt", "b.pt"]
    assert read_manifest(tmp_path).version == 0


@pytest.mark.parametrize("text", ["{broken", "[]", '{"samples": 3}', '{"version": 2}'])
def test_a_manifest_that_cannot_be_used_is_reported_and_the_folder_counts(tmp_path: Path, text: str) -> None:
    put(tmp_path, "a.pt")
    (tmp_path / "manifest.json").write_text(text)
    assert names(tmp_path) == ["a.pt"]
    (problem,) = read_manifest(tmp_path).problems
    assert "manifest.json" in problem


def test_missing_files_are_reported_by_name_and_the_rest_counts(tmp_path: Path) -> None:
    put(tmp_path, "a.pt")
    found = read_manifest(listing(tmp_path, ["gone.pt", "a.pt", 7], version=2))
    assert found.paths == [tmp_path / "a.pt"]
    assert found.missing == ["gone.pt", "7"]
    assert all("manifest.json" in problem for problem in found.problems)


@pytest.mark.parametrize("entry", ["../secret.pt", "sub/../../secret.pt", "..\\secret.pt", "/tmp/../x/secret.pt"])
def test_an_entry_that_leads_out_of_the_folder_is_refused(tmp_path: Path, entry: str) -> None:
    put(tmp_path, "secret.pt", "tensors/a.pt")
    with pytest.raises(TensorError, match="points out of its folder"):
        read_manifest(listing(tmp_path / "tensors", ["a.pt", entry]))


def test_an_absolute_entry_never_reads_outside_the_folder(tmp_path: Path) -> None:
    put(tmp_path, "secret.pt", "tensors/a.pt")
    found = read_manifest(listing(tmp_path / "tensors", ["a.pt", str(tmp_path / "secret.pt")]))
    assert found.paths == [tmp_path / "tensors" / "a.pt"]
    assert found.missing == [str(tmp_path / "secret.pt")]


def test_a_folder_without_a_single_song_is_an_error_with_a_hint(tmp_path: Path) -> None:
    for folder in (tmp_path / "not there", tmp_path, listing(tmp_path, ["gone.pt"])):
        with pytest.raises(TensorError) as caught:
            read_manifest(folder)
        assert str(folder) in str(caught.value)
        assert caught.value.hint


def test_reading_a_manifest_needs_no_torch() -> None:
    code = "import sys, acestep.tensors.manifest, acestep.preprocessing.configs; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
