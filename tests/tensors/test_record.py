from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.core.errors import ModelMismatch, TensorError
from acestep.models.checkpoint import Checkpoint, encoder_fingerprint, find_checkpoint
from acestep.tensors.record import (
    TensorRecord,
    check_fingerprint,
    decode_record,
    encode_record,
    read_record,
    write_record,
)
from tests.bad_files import pickle_bomb

FRAMES, TOKENS, WIDTH = 50, 7, 16


def record(seed: int = 0, **metadata: Any) -> TensorRecord:
    generator = torch.Generator().manual_seed(seed)
    return TensorRecord(
        torch.randn(FRAMES, 64, generator=generator),
        torch.randn(FRAMES, 128, generator=generator),
        torch.randn(TOKENS, WIDTH, generator=generator),
        {"filename": "song.wav", **metadata},
    )


def write_other_format(path: Path, *, mask_type: torch.dtype = torch.bool, **changes: Any) -> Path:
    """A file of ace-lora-trainer or Side-Step: 769 condition tokens, of which all but the first 40 are padding."""
    content: dict[str, Any] = {
        "target_latents": torch.randn(FRAMES, 64, dtype=torch.bfloat16),
        "attention_mask": torch.ones(FRAMES, dtype=torch.bfloat16),
        "encoder_hidden_states": torch.randn(769, WIDTH, dtype=torch.bfloat16),
        "encoder_attention_mask": (torch.arange(769) < 40).to(mask_type),
        "context_latents": torch.randn(FRAMES, 128, dtype=torch.bfloat16),
        "metadata": {"filename": "old.wav", "caption": "tag, a song", "bpm": 120, "repeat": 1},
    }
    content.update(changes)
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    return path


def test_a_record_round_trips_exactly(tmp_path: Path) -> None:
    written = record(caption="tag, chiptune \u00fc", bpm=None, duration=2)
    write_record(tmp_path / "a.pt", written)
    loaded = read_record(tmp_path / "a.pt")
    for name in ("target_latents", "context_latents", "encoder_hidden_states"):
        assert torch.equal(getattr(loaded, name), getattr(written, name))
    assert loaded.metadata == written.metadata
    assert loaded.duration_s == 2.0


@pytest.mark.parametrize(("dtype", "named"), [(torch.float16, True), (torch.bfloat16, False)])
def test_an_error_about_nan_names_fp16_as_the_likely_cause(dtype: torch.dtype, named: bool) -> None:
    good = record()
    latents = torch.full((FRAMES, 64), torch.inf, dtype=dtype)
    with pytest.raises(TensorError, match="NaN or infinite") as error:
        TensorRecord(latents, good.context_latents, good.encoder_hidden_states)
    assert ("likely cause is fp16" in error.value.hint) == named


def test_equal_records_give_equal_bytes_for_any_file_name_memory_layout_and_key_order(tmp_path: Path) -> None:
    first = record(caption="".join(["tag", ", text"]), bpm=120)
    base = torch.zeros(9 * FRAMES, 64)
    base[FRAMES : 2 * FRAMES] = first.target_latents
    metadata = {key: first.metadata[key] for key in reversed(first.metadata)}
    metadata["filename"] = "".join(["song", ".wav"])
    second = TensorRecord(
        base[FRAMES : 2 * FRAMES], first.context_latents.T.contiguous().T, first.encoder_hidden_states, metadata
    )
    write_record(tmp_path / "a.pt", first)
    write_record(tmp_path / "another name.pt", second)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another name.pt").read_bytes()
    assert (tmp_path / "a.pt").stat().st_size < 2 * 4 * FRAMES * 192


def test_files_contain_the_masks_that_other_trainers_expect(tmp_path: Path) -> None:
    write_record(tmp_path / "a.pt", record())
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(content["attention_mask"], torch.ones(FRAMES))
    assert torch.equal(content["encoder_attention_mask"], torch.ones(TOKENS, dtype=torch.bool))
    assert content["encoder_hidden_states"].shape == (TOKENS, WIDTH)


@pytest.mark.parametrize("mask_type", [torch.bool, torch.bfloat16, torch.int64, torch.float32])
def test_padding_of_other_trainers_is_removed_by_the_mask(tmp_path: Path, mask_type: torch.dtype) -> None:
    path = write_other_format(tmp_path / "old.pt", mask_type=mask_type)
    loaded = read_record(path)
    assert torch.equal(loaded.encoder_hidden_states, torch.load(path)["encoder_hidden_states"][:40])
    assert loaded.metadata["padded_condition"] is True
    assert loaded.metadata["caption"] == "tag, a song"


def test_padded_frames_are_removed_by_the_mask(tmp_path: Path) -> None:
    path = write_other_format(tmp_path / "old.pt", attention_mask=(torch.arange(FRAMES) < 30).float())
    loaded = read_record(path)
    assert loaded.target_latents.shape == (30, 64)
    assert loaded.context_latents.shape == (30, 128)


def test_unpadded_conditions_are_not_marked_as_padded(tmp_path: Path) -> None:
    loaded = read_record(write_other_format(tmp_path / "old.pt", encoder_attention_mask=torch.ones(769)))
    assert "padded_condition" not in loaded.metadata


def test_metadata_of_other_programs_becomes_json_compatible(tmp_path: Path) -> None:
    loaded = read_record(write_other_format(tmp_path / "a.pt", metadata={"shape": torch.Size([2]), 3: "three"}))
    assert json.dumps(loaded.metadata)
    assert read_record(write_other_format(tmp_path / "b.pt", metadata=None)).metadata == {"padded_condition": True}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_latents": torch.zeros(50, 65)}, "context_latents has shape [50, 65], expected [50, 128]"),
        ({"context_latents": torch.zeros(49, 128)}, "context_latents has shape [49, 128], expected [50, 128]"),
        ({"target_latents": torch.zeros(50, 63)}, "target_latents has shape [50, 63], expected [50, 64]"),
        ({"target_latents": torch.zeros(())}, "attention_mask has shape [50], expected []"),
        ({"encoder_hidden_states": torch.zeros(769)}, "encoder_hidden_states has shape [40], expected [L, D]"),
        ({"encoder_attention_mask": torch.ones(768)}, "encoder_attention_mask has shape [768], expected [769]"),
        ({"encoder_attention_mask": torch.zeros(769)}, "encoder_hidden_states has shape [0, 16], expected [L, D]"),
        ({"attention_mask": torch.zeros(50)}, "target_latents has shape [0, 64], expected [1, 64]"),
        ({"target_latents": torch.full((50, 64), float("nan"))}, "target_latents contains NaN"),
        ({"context_latents": None, "attention_mask": "ones"}, "is missing the tensors attention_mask, context_latents"),
        ({"metadata": {"format_version": 2}}, "has format version 2; this program supports versions up to 1"),
    ],
)
def test_an_invalid_sample_is_rejected_with_the_file_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TensorError) as caught:
        read_record(write_other_format(tmp_path / "invalid sample.pt", **changes))
    assert "invalid sample.pt" in str(caught.value)
    assert message in str(caught.value)
    assert caught.value.hint


def test_missing_files_text_files_and_lists_are_rejected_with_the_file_name(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a tensor")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    for name, message in (
        ("missing.pt", "cannot be read"),
        ("text.pt", "not a tensor file"),
        ("list.pt", "expected a dict, got list"),
    ):
        with pytest.raises(TensorError, match=f"{name}.*{message}"):
            read_record(tmp_path / name)


class _MaliciousPickle:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"echo > '{self.marker}'",)


def test_a_malicious_pickle_is_rejected_with_a_clear_error_and_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    plain, zipped = pickle_bomb(tmp_path / "plain song.pt", marker), tmp_path / "song.pt"
    write_other_format(zipped, metadata=_MaliciousPickle(marker))
    with pytest.raises(TensorError, match="song.pt is not a tensor file"):
        read_record(plain)
    with pytest.raises(TensorError, match=r"song.pt was not loaded: it contains code \(\w+\.system\)"):
        read_record(zipped)
    assert not marker.exists()
    pickle.loads(pickle.dumps(_MaliciousPickle(marker)))  # the payload does run when unpickled
    assert marker.exists()


def test_a_truncated_file_is_rejected_at_any_length() -> None:
    data, rng = encode_record(record()), random.Random(0)
    for end in [0, 1, len(data) // 2, len(data) - 1, *(rng.randrange(len(data)) for _ in range(100))]:
        with pytest.raises(TensorError, match="a.pt is"):
            decode_record(data[:end], "a.pt")


def test_an_altered_file_is_loaded_or_rejected_but_never_crashes() -> None:
    data, rng = encode_record(record()), random.Random(0)
    rejected = 0
    for _ in range(300):
        altered = bytearray(data)
        for _ in range(3):
            altered[rng.randrange(1200)] ^= 1 << rng.randrange(8)
        try:
            decode_record(bytes(altered), "a.pt")
        except TensorError:
            rejected += 1
    assert rejected > 30


def test_samples_match_the_model_that_preprocessed_them(tiny_checkpoint: Path) -> None:
    checkpoint = find_checkpoint(tiny_checkpoint)
    fingerprint = encoder_fingerprint(checkpoint)
    assert check_fingerprint([record(encoder_fingerprint=fingerprint, model_checkpoint="renamed")], checkpoint) == []
    assert check_fingerprint([record(model_checkpoint=checkpoint.name)], checkpoint) == []


def test_samples_of_another_model_are_rejected_with_both_names(tiny_checkpoint: Path) -> None:
    checkpoint = find_checkpoint(tiny_checkpoint)
    other = record(encoder_fingerprint="0" * 16, model_checkpoint="acestep-v15-base")
    with pytest.raises(
        ModelMismatch, match=f"song.wav was preprocessed with acestep-v15-base, the base model is {checkpoint.name}"
    ):
        check_fingerprint([record(model_checkpoint=checkpoint.name), other], checkpoint)
    with pytest.raises(ModelMismatch, match="old-model"):
        check_fingerprint([record(model_checkpoint="old-model")], checkpoint)
    with pytest.raises(ModelMismatch, match=f"encoder {'0' * 16}, not {encoder_fingerprint(checkpoint)}"):
        check_fingerprint([record(encoder_fingerprint="0" * 16, model_checkpoint=checkpoint.name)], checkpoint)


def test_samples_of_an_unknown_model_are_accepted_with_a_warning(tiny_checkpoint: Path) -> None:
    checkpoint: Checkpoint = find_checkpoint(tiny_checkpoint)
    (warning,) = check_fingerprint([record(), record()], checkpoint)
    assert "song.wav" in warning
    assert checkpoint.name in warning


def shared_references() -> list[Any]:
    """A list of 2^60 values that takes 60 lists in memory."""
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]
    return value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_latents", torch.zeros(1, 1).expand(10**12, 64)),
        ("context_latents", torch.zeros(10, 128).to_sparse()),
        ("encoder_hidden_states", torch.zeros(5, 16, device="meta")),
        ("target_latents", torch.quantize_per_tensor(torch.zeros(10, 64), 0.1, 0, torch.qint8)),
        ("target_latents", torch.zeros(10, 64).to(torch.float8_e4m3fn)),
        ("target_latents", torch.zeros(10, 64, dtype=torch.complex64)),
        ("target_latents", torch.zeros(10, 64, dtype=torch.int32)),
        ("attention_mask", torch.ones(1).expand(10**12)),
        ("metadata", {"a": shared_references()}),
        ("metadata", {"a": 10**400}),
    ],
    ids=["expanded", "sparse", "meta", "quantized", "fp8", "complex", "integers", "mask", "references", "digits"],
)
def test_unusable_tensors_and_metadata_are_reported(key: str, value: Any) -> None:
    content = {**record().tensors(), "metadata": {}, key: value}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with pytest.raises(TensorError, match=f"song.pt: (its )?{key}"):
        decode_record(buffer.getvalue(), "song.pt")


def test_a_compressed_archive_is_rejected() -> None:
    data, compressed = encode_record(record()), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(compressed, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    with pytest.raises(TensorError, match="is compressed"):
        decode_record(compressed.getvalue(), "song.pt")


def test_a_fifo_in_place_of_a_sample_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "song.pt")
    with pytest.raises(TensorError, match="not a regular file"):
        read_record(tmp_path / "song.pt")
