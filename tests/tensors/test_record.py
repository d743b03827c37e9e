from __future__ import annotations

import json
import os
import pickle
import random
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
    noise = torch.Generator().manual_seed(seed)
    return TensorRecord(
        torch.randn(FRAMES, 64, generator=noise),
        torch.randn(FRAMES, 128, generator=noise),
        torch.randn(TOKENS, WIDTH, generator=noise),
        {"filename": "song.wav", **metadata},
    )


def foreign(path: Path, *, mask_type: torch.dtype = torch.bool, **changes: Any) -> Path:
    """As the existing trainer and Side-Step write it: 769 tokens, of which the first 40 mean something."""
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


def test_what_is_written_is_read_back_exactly(tmp_path: Path) -> None:
    written = record(caption="tag, chiptune \u00fc", bpm=None, duration=2)
    write_record(tmp_path / "a.pt", written)
    found = read_record(tmp_path / "a.pt")
    for name in ("target_latents", "context_latents", "encoder_hidden_states"):
        assert torch.equal(getattr(found, name), getattr(written, name))
    assert found.metadata == written.metadata
    assert found.duration_s == 2.0


def test_equal_records_give_equal_bytes_whatever_their_name_history_or_order_of_labels(tmp_path: Path) -> None:
    first = record(caption="".join(["tag", ", text"]), bpm=120)
    big = torch.zeros(9 * FRAMES, 64)
    big[FRAMES : 2 * FRAMES] = first.target_latents
    labels = {key: first.metadata[key] for key in reversed(first.metadata)}
    labels["filename"] = "".join(["song", ".wav"])
    second = TensorRecord(
        big[FRAMES : 2 * FRAMES], first.context_latents.T.contiguous().T, first.encoder_hidden_states, labels
    )
    write_record(tmp_path / "a.pt", first)
    write_record(tmp_path / "another name.pt", second)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another name.pt").read_bytes()
    assert (tmp_path / "a.pt").stat().st_size < 2 * 4 * FRAMES * 192


def test_the_existing_trainer_finds_the_masks_it_expects(tmp_path: Path) -> None:
    write_record(tmp_path / "a.pt", record())
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(content["attention_mask"], torch.ones(FRAMES))
    assert torch.equal(content["encoder_attention_mask"], torch.ones(TOKENS, dtype=torch.bool))
    assert content["encoder_hidden_states"].shape == (TOKENS, WIDTH)


@pytest.mark.parametrize("mask_type", [torch.bool, torch.bfloat16, torch.int64, torch.float32])
def test_padded_conditions_of_other_trainers_are_trimmed_by_their_mask(tmp_path: Path, mask_type: torch.dtype) -> None:
    path = foreign(tmp_path / "old.pt", mask_type=mask_type)
    found = read_record(path)
    assert torch.equal(found.encoder_hidden_states, torch.load(path)["encoder_hidden_states"][:40])
    assert found.metadata["padded_condition"] is True
    assert found.metadata["caption"] == "tag, a song"


def test_frames_that_the_mask_calls_padding_are_trimmed_too(tmp_path: Path) -> None:
    path = foreign(tmp_path / "old.pt", attention_mask=(torch.arange(FRAMES) < 30).float())
    found = read_record(path)
    assert found.target_latents.shape == (30, 64)
    assert found.context_latents.shape == (30, 128)


def test_unpadded_conditions_are_not_flagged(tmp_path: Path) -> None:
    found = read_record(foreign(tmp_path / "old.pt", encoder_attention_mask=torch.ones(769)))
    assert "padded_condition" not in found.metadata


def test_metadata_of_other_programs_becomes_plain_data_or_nothing(tmp_path: Path) -> None:
    found = read_record(foreign(tmp_path / "a.pt", metadata={"shape": torch.Size([2]), 3: "three"}))
    assert json.dumps(found.metadata)
    assert read_record(foreign(tmp_path / "b.pt", metadata=None)).metadata == {"padded_condition": True}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"context_latents": torch.zeros(50, 65)}, "context_latents is [50, 65], expected [50, 128]"),
        ({"context_latents": torch.zeros(49, 128)}, "context_latents is [49, 128], expected [50, 128]"),
        ({"target_latents": torch.zeros(50, 63)}, "target_latents is [50, 63], expected [50, 64]"),
        ({"target_latents": torch.zeros(())}, "attention_mask is [50], expected []"),
        ({"encoder_hidden_states": torch.zeros(769)}, "encoder_hidden_states is [40], expected [tokens, width]"),
        ({"encoder_attention_mask": torch.ones(768)}, "encoder_attention_mask is [768], expected [769]"),
        ({"encoder_attention_mask": torch.zeros(769)}, "encoder_hidden_states is [0, 16], expected [tokens, width]"),
        ({"attention_mask": torch.zeros(50)}, "target_latents is [0, 64], expected [1, 64]"),
        ({"target_latents": torch.full((50, 64), float("nan"))}, "target_latents holds NaN"),
        ({"context_latents": None, "attention_mask": "ones"}, "has no attention_mask, context_latents"),
        ({"metadata": {"format_version": 2}}, "has format 2, this program reads up to 1"),
    ],
)
def test_a_file_that_is_no_song_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TensorError) as caught:
        read_record(foreign(tmp_path / "odd song.pt", **changes))
    assert "odd song.pt" in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.hint


def test_a_missing_file_a_text_and_a_list_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a tensor")
    torch.save([torch.zeros(3)], tmp_path / "list.pt")
    for name, said in (("gone.pt", "cannot be read"), ("text.pt", "not a tensor file"), ("list.pt", "but a list")):
        with pytest.raises(TensorError, match=f"{name}.*{said}"):
            read_record(tmp_path / name)


class _Bomb:
    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"echo > '{self.proof}'",)


def test_a_pickle_bomb_is_refused_in_words_and_never_executed(tmp_path: Path) -> None:
    proof = tmp_path / "executed"
    plain, zipped = pickle_bomb(tmp_path / "plain song.pt", proof), tmp_path / "song.pt"
    foreign(zipped, metadata=_Bomb(proof))
    with pytest.raises(TensorError, match="song.pt is not a tensor file"):
        read_record(plain)
    with pytest.raises(TensorError, match=r"song.pt was not opened: it asks to run code of its own \(\w+\.system\)"):
        read_record(zipped)
    assert not proof.exists()
    pickle.loads(pickle.dumps(_Bomb(proof)))  # it is a live one
    assert proof.exists()


def test_a_cut_file_is_refused_wherever_it_ends() -> None:
    good, chance = encode_record(record()), random.Random(0)
    for end in [0, 1, len(good) // 2, len(good) - 1, *(chance.randrange(len(good)) for _ in range(100))]:
        with pytest.raises(TensorError, match="a.pt is"):
            decode_record(good[:end], "a.pt")


def test_an_altered_file_is_read_or_refused_but_never_a_crash() -> None:
    good, chance = encode_record(record()), random.Random(0)
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(3):
            data[chance.randrange(1200)] ^= 1 << chance.randrange(8)
        try:
            decode_record(bytes(data), "a.pt")
        except TensorError:
            refused += 1
    assert refused > 30


def test_songs_fit_the_model_whose_encoder_made_them(tiny_checkpoint: Path) -> None:
    checkpoint = find_checkpoint(tiny_checkpoint)
    mine = encoder_fingerprint(checkpoint)
    assert check_fingerprint([record(encoder_fingerprint=mine, model_checkpoint="renamed")], checkpoint) == []
    assert check_fingerprint([record(model_checkpoint=checkpoint.name)], checkpoint) == []


def test_songs_of_another_model_are_refused_with_both_names(tiny_checkpoint: Path) -> None:
    checkpoint = find_checkpoint(tiny_checkpoint)
    other = record(encoder_fingerprint="0" * 16, model_checkpoint="acestep-v15-base")
    with pytest.raises(ModelMismatch, match=f"song.wav was made with acestep-v15-base, the model is {checkpoint.name}"):
        check_fingerprint([record(model_checkpoint=checkpoint.name), other], checkpoint)
    with pytest.raises(ModelMismatch, match="old-model"):
        check_fingerprint([record(model_checkpoint="old-model")], checkpoint)
    with pytest.raises(ModelMismatch, match=f"encoder {'0' * 16}, not {encoder_fingerprint(checkpoint)}"):
        check_fingerprint([record(encoder_fingerprint="0" * 16, model_checkpoint=checkpoint.name)], checkpoint)


def test_songs_of_an_unknown_model_are_taken_with_a_warning(tiny_checkpoint: Path) -> None:
    checkpoint: Checkpoint = find_checkpoint(tiny_checkpoint)
    (warning,) = check_fingerprint([record(), record()], checkpoint)
    assert "song.wav" in warning
    assert checkpoint.name in warning
