"""Crops are read from their place in a file, and a file that has changed is noticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.core.errors import TensorError
from acestep.tensors.record import Crop, TensorRecord, read_record, write_record
from acestep.tensors.tensor_file import TensorFile, read_facts

FRAMES, TOKENS, WIDTH = 50, 7, 16


def write(path: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((FRAMES, 64), (FRAMES, 128), (TOKENS, WIDTH))
    write_record(path, TensorRecord(*(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)))
    return path


def write_other_format(path: Path, **changes: Any) -> Path:
    """A file of another trainer, whose tensors are padded at the end."""
    content = {
        "target_latents": torch.randn(FRAMES, 64),
        "attention_mask": torch.arange(FRAMES) < 40,
        "encoder_hidden_states": torch.randn(TOKENS, WIDTH),
        "encoder_attention_mask": torch.arange(TOKENS) < 5,
        "context_latents": torch.randn(FRAMES, 128),
    }
    torch.save(content | changes, path)
    return path


def opened(path: Path) -> TensorFile:
    return TensorFile(path, read_facts(path))


def require_equal(found: Crop, expected: Crop) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_crop_of_a_file_equals_that_of_its_record(tmp_path: Path, dtype: torch.dtype) -> None:
    path = write(tmp_path / "a.pt", dtype)
    file, record = opened(path), read_record(path)
    for start, count in ((0, 0), (10, 20), (40, 20), (4, 0)):
        require_equal(file.crop(start, count), record.crop(start, count))
    assert (file.num_frames, file.num_tokens, file.width) == (FRAMES, TOKENS, WIDTH)
    assert file.num_bytes == record.num_bytes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_mask": torch.arange(FRAMES) >= 10},  # padded at the beginning
        {"attention_mask": torch.arange(FRAMES) % 2},
        {"target_latents": torch.randn(64, FRAMES).T},
        {"encoder_attention_mask": torch.arange(TOKENS) > 2},
    ],
    ids=["at the end", "at the beginning", "in between", "transposed", "tokens"],
)
def test_files_of_other_trainers_are_read_without_their_padding(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write_other_format(tmp_path / "a.pt", **changes)
    require_equal(opened(path).crop(3, 8), read_record(path).crop(3, 8))


def test_only_the_crop_and_the_condition_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    file, expected = opened(path), read_record(path).crop(10, 20)
    before, data = path.stat(), bytearray(path.read_bytes())
    for stored in (file.facts.latents, file.facts.context):
        row = stored.num_bytes // stored.rows
        for first, last in ((0, 10), (30, FRAMES)):
            data[stored.offset + first * row : stored.offset + last * row] = bytes((last - first) * row)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    require_equal(file.crop(10, 20), expected)
    assert not file.crop().latents[:10].any()


def test_a_silent_context_is_not_read(tmp_path: Path) -> None:
    silence = torch.randn(FRAMES + 9, 128)
    file = opened(write(tmp_path / "a.pt"))
    assert torch.equal(file.with_silence(silence).crop(10, 20).context, silence[10:30])
    assert file.with_silence(silence).num_bytes == file.num_bytes - FRAMES * 128 * 4


def test_a_file_may_be_replaced_by_one_with_the_same_content_but_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    file, expected = opened(path), read_record(path).crop(0, 5)
    path.rename(tmp_path / "before.pt")
    write(path)
    os.utime(path, (1, 1))
    require_equal(file.crop(0, 5), expected)
    write(path, seed=1)
    with pytest.raises(TensorError, match=r"a.pt was changed while it is used") as caught:
        file.crop(0, 5)
    assert "Restore the file" in caught.value.hint


def test_a_file_that_is_gone_or_damaged_is_reported_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt")
    file = opened(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(TensorError, match=r"a.pt is truncated"):
        file.crop()
    path.unlink()
    with pytest.raises(TensorError, match=r"a.pt cannot be read: No such file"):
        file.crop()
