"""Tensors that the ACE-Step app preprocessed for LoKr train like those of this program."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from acestep.core.errors import CheckpointError
from acestep.core.events import LogMessage
from acestep.models.checkpoint import find_checkpoint
from acestep.models.condition import context_latents
from acestep.models.load import load_silence_latent
from acestep.tensors.manifest import has_song_contexts, read_manifest
from acestep.tensors.record import read_record, write_record
from acestep.tensors.tensor_file import TensorFile, read_facts
from acestep.training.data import TrainingSample
from acestep.training.silent_contexts import with_silent_contexts
from acestep.ui.trainer.tensors_picker import describe_tensors
from tests.training.runs import Unstoppable, make_job, of_kind, run, tensors_for

SILENCED = "holds the song itself"


def rewrite(source: Path, folder: Path, checkpoint: Path, *, song: bool, **metadata: Any) -> Path:
    """The tensors with silence as context, as preprocessing makes it, or with the song itself."""
    silence = load_silence_latent(find_checkpoint(checkpoint))
    folder.mkdir()
    for path in source.glob("*.pt"):
        record = read_record(path)
        context = context_latents(silence, len(record.target_latents))
        if song:
            context[:, :64] = record.target_latents
        changes = {"context_latents": context, "metadata": {**record.metadata, **metadata}}
        write_record(folder / path.name, dataclasses.replace(record, **changes))
    return folder


@pytest.fixture
def silent(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    source = tensors_for(tmp_path / "source", tiny_checkpoint)
    return rewrite(source, tmp_path / "silent", tiny_checkpoint, song=False)


@pytest.mark.parametrize("metadata", [{"preprocess_mode": "lokr"}, {}], ids=["marked", "equal to the song"])
def test_training_gives_the_same_losses_and_the_same_adapter(
    tiny_checkpoint: Path, silent: Path, tmp_path: Path, metadata: dict[str, str]
) -> None:
    songs = rewrite(silent, tmp_path / "songs", tiny_checkpoint, song=True, **metadata)
    expected, before = run(make_job(silent, tiny_checkpoint, tmp_path / "a", max_epochs=2))
    found, events = run(make_job(songs, tiny_checkpoint, tmp_path / "b", max_epochs=2))
    for name in ("fit_loss", "fit_loss_before"):
        assert found[name] == expected[name]
    one, other = (load_file(tmp_path / out / "final" / "adapter" / "adapter_model.safetensors") for out in "ab")
    assert all(torch.equal(other[name], value) for name, value in one.items())
    [warning] = [event for event in of_kind(events, LogMessage) if SILENCED in event.message]
    assert warning.warning
    assert "5 of 5 songs" in warning.message
    assert not [event for event in of_kind(before, LogMessage) if SILENCED in event.message]


def test_a_dataset_that_needs_silence_is_rejected_if_the_model_has_none(
    tiny_checkpoint: Path, silent: Path, tmp_path: Path
) -> None:
    songs = rewrite(silent, tmp_path / "songs", tiny_checkpoint, song=True, preprocess_mode="lokr")
    broken = Path(shutil.copytree(tiny_checkpoint, tmp_path / "broken"))
    (broken / "silence_latent.pt").unlink()
    [path, *_] = sorted(songs.glob("*.pt"))
    samples = [TrainingSample(path.name, "", TensorFile(path, read_facts(path)))]
    with pytest.raises(CheckpointError, match="silence_latent"):
        with_silent_contexts(samples, find_checkpoint(broken), Unstoppable(tmp_path))


def test_the_folder_is_reported_before_training(tiny_checkpoint: Path, silent: Path, tmp_path: Path) -> None:
    songs = rewrite(silent, tmp_path / "songs", tiny_checkpoint, song=True, preprocess_mode="lokr")
    assert read_manifest(songs).song_contexts
    assert not read_manifest(silent).song_contexts
    assert "Training replaces it by silence" in describe_tensors(read_manifest(songs))
    assert "silence" not in describe_tensors(read_manifest(silent))
    for damage in (b"", b"PK", next(songs.glob("*.pt")).read_bytes()[:500]):
        (tmp_path / "damaged.pt").write_bytes(damage)
        assert not has_song_contexts(tmp_path / "damaged.pt")


def test_a_file_of_the_app_gets_silence_as_context(tiny_checkpoint: Path, tmp_path: Path) -> None:
    file = Path(__file__).parents[1] / "fixtures" / "tensors_preprocessed_for_lokr" / "0.pt"
    sample = TrainingSample(file.name, "", TensorFile(file, read_facts(file)))
    context = Unstoppable(tmp_path)
    (silenced,) = with_silent_contexts([sample], find_checkpoint(tiny_checkpoint), context)
    silence = context_latents(load_silence_latent(find_checkpoint(tiny_checkpoint)), 32)
    assert torch.equal(silenced.record.crop().context, silence)
    assert SILENCED in str(context.events[0])
