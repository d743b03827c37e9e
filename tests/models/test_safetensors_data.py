"""Tensors that are read leave the file free to be replaced, which Windows allows only if it is not mapped."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.adapters.files import load_adapter, read_adapter
from acestep.core.errors import CheckpointError
from acestep.models.load import load_dit, load_text_encoder, load_vae
from acestep.models.safetensors_data import read_tensor, read_tensors
from acestep.models.safetensors_header import read_safetensors_header, read_safetensors_metadata
from acestep.tensors.record import read_record
from acestep.training.state.tensor_tree import TENSORS, read_state, write_state
from tests.adapters.small import LORA, make_decoder, save, trained
from tests.training.songs import write_samples

VALUES = {
    "double": torch.randn(2, dtype=torch.float64),
    "half": torch.randn(3, 5).half(),
    "number": torch.tensor(2.5),
    "brain": torch.randn(7, dtype=torch.bfloat16),
    "whole": torch.arange(4),
    "byte": torch.arange(3, dtype=torch.uint8),
    "flag": torch.tensor([True, False]),
    "nothing": torch.zeros(0, 4),
}


def is_mapped(file):
    """Whether this process has ``file`` mapped. Where the system does not list that, the file must be replaceable."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        return str(file.resolve()) in maps.read_text()
    os.replace(shutil.copy(file, file.with_suffix(".copy")), file)
    return False


def test_tensors_are_read_in_their_dtypes_without_mapping_the_file(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(VALUES, file, {"format": "pt"})
    mapped = load_file(file)
    assert is_mapped(file)
    del mapped
    found = read_tensors(file)
    assert not is_mapped(file)
    assert list(found) == sorted(VALUES)
    for name, tensor in VALUES.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert read_safetensors_metadata(file) == {"format": "pt"}


def test_a_training_state_can_be_replaced_while_the_run_that_resumed_from_it_goes_on(tmp_path):
    write_state(tmp_path, {"weights": VALUES})
    state = read_state(tmp_path)
    assert not is_mapped(tmp_path / TENSORS)
    assert torch.equal(state["weights"]["brain"], VALUES["brain"])


def test_adapters_tensors_and_models_in_memory_do_not_map_their_files(tmp_path, tiny_checkpoint):
    decoder = make_decoder()
    folder = save(trained(decoder, "lora", LORA), tmp_path / "run" / "adapter")
    read_safetensors_metadata(folder / "adapter_model.safetensors")
    tensors = write_samples(tmp_path / "tensors", tiny_checkpoint, [(20, 6)])
    kept = [
        read_adapter(folder),
        load_adapter(make_decoder(), folder),
        read_record(tensors / "song 0.pt"),
        load_dit(tiny_checkpoint),
        load_vae(tiny_checkpoint),
        load_text_encoder(tiny_checkpoint),
    ]
    files = [file for root in (tmp_path, tiny_checkpoint.parent) for file in root.rglob("*") if file.is_file()]
    assert len(kept) < len(files)
    assert [file for file in files if is_mapped(file)] == []


def test_metadata_that_is_not_text_is_rejected(tmp_path):
    header = b'{"__metadata__":{"a":1}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="its metadata is not text"):
        read_safetensors_metadata(tmp_path / "a.safetensors")


def test_a_file_that_is_truncated_while_it_is_read_is_reported(tmp_path):
    file = tmp_path / "a.safetensors"
    save_file(VALUES, file)
    stored = read_safetensors_header(file)["double"]
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="truncated at double"):
        read_tensor(stored)
