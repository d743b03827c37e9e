"""Files that are written one tensor at a time are valid safetensors files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acestep.core.errors import CheckpointError
from acestep.exporting.safetensors_stream import TensorWriter
from acestep.models.safetensors_data import read_tensor
from acestep.models.safetensors_header import read_safetensors_header

TENSORS = {
    "half": torch.randn(3, 5).half(),
    "number": torch.tensor(2.5),
    "brain": torch.randn(7, dtype=torch.bfloat16),
    "whole": torch.arange(4),
    "kernel": torch.randn(2, 3, 2),
}


def written(path: Path) -> Path:
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
    with TensorWriter(path, layout) as writer:
        for name in writer.names:
            writer.write(name, TENSORS[name])
    return path


def test_the_safetensors_library_reads_the_file(tmp_path: Path) -> None:
    found = load_file(written(tmp_path / "new" / "a.safetensors"))
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    with safe_open(tmp_path / "new" / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_every_tensor_is_aligned_in_the_file(tmp_path: Path) -> None:
    for name, stored in read_safetensors_header(written(tmp_path / "a.safetensors")).items():
        assert stored.start % TENSORS[name].itemsize == 0


def test_tensors_are_copied_from_another_file_unchanged(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    header = read_safetensors_header(tmp_path / "a.safetensors")
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
    with TensorWriter(tmp_path / "b.safetensors", layout) as writer:
        for name in writer.names:
            writer.copy(name, header[name])
    found = load_file(tmp_path / "b.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert all(torch.equal(read_tensor(header[name]), tensor) for name, tensor in TENSORS.items())


def test_a_source_that_is_truncated_during_the_copy_is_reported(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    header = read_safetensors_header(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"")
    with (
        pytest.raises(CheckpointError, match="truncated at kernel"),
        TensorWriter(tmp_path / "b.safetensors", {"kernel": (torch.float32, (2, 3, 2))}) as writer,
    ):
        writer.copy("kernel", header["kernel"])


def test_closing_with_missing_tensors_is_an_assertion_error(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="lacks the tensors"),
        TensorWriter(tmp_path / "a", {"x": (torch.int8, (1,))}),
    ):
        pass
