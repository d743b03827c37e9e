import math

import pytest
import torch
from safetensors import SafetensorError

from acestep.core.errors import DiskFull, TrainingError
from acestep.core.files import replace_folder
from acestep.training.state import tensor_tree as state
from acestep.training.state.tensor_tree import read_state, write_state


def equal(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return type(other) is dict and list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and (one == other or one != one)


STATE = {
    "state": {0: {"step": torch.tensor(3.0), "deep": {"q": torch.arange(5, dtype=torch.uint8)}}, 1: {}},
    "param_groups": [{"betas": (0.9, 0.999), "lr": 0.1 + 0.2, "params": [0, 1], "fused": None, "amsgrad": False}],
    "half": torch.randn(2, 3).bfloat16(),
    "scalar": torch.tensor(1.5),
    "infinite": [math.inf, -math.inf, math.nan],
    "with $": {"$": "tensor", "name": "x"},
}


def test_everything_an_optimizer_keeps_comes_back_as_it_was(tmp_path):
    write_state(tmp_path, STATE)
    assert equal(STATE, read_state(tmp_path))


def test_equal_states_are_equal_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_state(tmp_path / name, STATE)
    for file in ("state.json", "state.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_tensors_that_share_memory_are_stored_apart(tmp_path):
    whole = torch.arange(6.0)
    write_state(tmp_path, {"all": whole, "part": whole[2:4]})
    assert read_state(tmp_path)["part"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_a_damaged_state_is_rejected_with_its_path(tmp_path, file):
    write_state(tmp_path, STATE)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: len(data) // 2])
    with pytest.raises(TrainingError, match=str(tmp_path)):
        read_state(tmp_path)


def test_a_full_disk_while_writing_tensors_is_reported_as_such(tmp_path, monkeypatch):
    def full(*_arguments):  # what safetensors 0.8 says on a full tmpfs
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(DiskFull):
        save_into(tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def save_into(target):
    with replace_folder(target) as folder:
        write_state(folder, STATE)
