"""Standard and two-pass preprocessing: same files, different memory."""

from __future__ import annotations

import hashlib
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.audio.files import load_audio
from acestep.core.events import LogMessage, Saved
from acestep.models import load
from acestep.models.checkpoint import encoder_fingerprint, find_checkpoint
from acestep.models.condition import context_latents, encode_condition
from acestep.models.text import format_lyrics, format_prompt
from acestep.models.vae import encode_audio
from acestep.preprocessing.sample_sources import SampleSource
from acestep.preprocessing.stages import load_sample_audio
from acestep.tensors.manifest import read_manifest
from acestep.tensors.record import TensorRecord, check_fingerprint, read_record
from tests.bad_files import song
from tests.preprocessing.conftest import TAG, Listener, Preprocessor, tensors

Standard = tuple[Path, Any, Listener]


@pytest.fixture(scope="module")
def two_pass(
    tmp_path_factory: pytest.TempPathFactory, audio_dir: Path, tiny_checkpoint: Path
) -> tuple[Path, Any, Listener, list[str]]:
    """Output folder, result and events of two-pass preprocessing, and the models in memory at each load."""
    alive: dict[str, weakref.ref[Any]] = {}
    history: list[str] = []

    def recorded(name: str) -> Any:
        original = getattr(load, name)

        def loading(*arguments: Any, **options: Any) -> Any:
            history.append(f"{name} with {sorted(other for other, model in alive.items() if model() is not None)}")
            loaded = original(*arguments, **options)
            alive[name] = weakref.ref(getattr(loaded, "model", loaded))
            return loaded

        return loading

    out, listener = tmp_path_factory.mktemp("encoded") / "two_pass", Listener()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_vae", "load_text_encoder", "load_condition_encoder"):
            patch.setattr(load, name, recorded(name))
        result = Preprocessor(audio_dir, tiny_checkpoint).run(out, listener, two_pass=True)
    return out, result, listener, history


def record_of(folder: Path, filename: str) -> TensorRecord:
    records = [read_record(path) for path in read_manifest(folder).paths]
    return next(record for record in records if record.metadata["filename"] == filename)


def test_both_modes_write_the_same_bytes(standard: Standard, two_pass: tuple[Path, Any, Listener, list[str]]) -> None:
    assert len(tensors(standard[0])) == 2
    assert tensors(standard[0]) == tensors(two_pass[0])


def test_two_pass_frees_the_models_of_pass_1_before_loading_pass_2(
    two_pass: tuple[Path, Any, Listener, list[str]],
) -> None:
    assert two_pass[3] == [
        "load_vae with []",
        "load_text_encoder with ['load_vae']",
        "load_condition_encoder with []",
    ]


def test_two_pass_uses_less_memory_and_logs_it_for_each_pass(
    standard: Standard, two_pass: tuple[Path, Any, Listener, list[str]]
) -> None:
    assert 0 < two_pass[1]["peak_model_bytes"] < standard[1]["peak_model_bytes"]
    messages = [message for message in two_pass[2].messages(LogMessage) if "MiB" in message]
    assert [message.split(",")[0].split(" of 2")[0].split(" finished")[0] for message in messages] == [
        "pass 1",
        "pass 1",
        "pass 2",
    ]
    assert "freed: 0.0 MiB" in messages[1]


def test_intermediate_files_are_removed(two_pass: tuple[Path, Any, Listener, list[str]]) -> None:
    assert sorted(path.name for path in two_pass[0].iterdir()) == sorted([*tensors(two_pass[0]), "manifest.json"])


def test_the_manifest_describes_every_file_and_the_settings(
    standard: Standard, two_pass: tuple[Path, Any, Listener, list[str]]
) -> None:
    out, result, listener = standard
    content = json.loads((out / "manifest.json").read_text())
    assert content["samples"] == [detail["path"] for detail in content["sample_details"]]
    for detail in content["sample_details"]:
        data = (out / detail["path"]).read_bytes()
        assert (detail["file_size_bytes"], detail["md5"]) == (len(data), hashlib.md5(data).hexdigest())
    assert content["metadata"]["custom_tag"] == TAG
    assert content["preprocessing"]["max_duration"] == 240
    assert content["preprocessing"]["model_checkpoint"] == "acestep-v15-tiny"
    assert "mode" not in content["preprocessing"]
    assert json.loads((two_pass[0] / "manifest.json").read_text())["preprocessing"]["mode"] == "two_pass"
    assert (result["ready"], result["made"], result["up_to_date"], result["failed"]) == (2, 2, 0, [])
    assert len(listener.messages(Saved)) == 2


def test_a_tensor_file_contains_the_condition_of_inference(
    standard: Standard, audio_dir: Path, tiny_checkpoint: Path
) -> None:
    record = record_of(standard[0], "one.wav")
    text, encoder = load.load_text_encoder(tiny_checkpoint), load.load_condition_encoder(tiny_checkpoint)
    silence = load.load_silence_latent(tiny_checkpoint)
    prompt = format_prompt(f"{TAG}, a slow sine wave", bpm=None, timesignature="", keyscale="", duration_s=1)
    states = text.encode_prompt(prompt), text.embed_lyrics(format_lyrics("[Verse]\nla la la", "unknown"))
    condition = encode_condition(encoder, *states, silence)
    assert len(condition) == len(states[0]) + len(states[1]) + 1
    torch.testing.assert_close(record.encoder_hidden_states, condition)
    assert record.target_latents.shape == (26, 64)
    assert torch.equal(record.context_latents, context_latents(silence, 26))


def test_the_vae_seed_depends_on_the_audio_and_the_seed(
    standard: Standard, audio_dir: Path, tiny_checkpoint: Path
) -> None:
    record, audio = record_of(standard[0], "one.wav"), load_audio(audio_dir / "one.wav")
    text = f"{hashlib.sha256((audio_dir / 'one.wav').read_bytes()).hexdigest()} 42"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
    assert torch.equal(record.target_latents, encode_audio(load.load_vae(tiny_checkpoint), audio, seed=seed))


def test_metadata_contains_labels_versions_and_model_but_no_absolute_path(
    standard: Standard, audio_dir: Path, tiny_checkpoint: Path
) -> None:
    metadata = record_of(standard[0], "two.flac").metadata
    labels = {"caption": f"{TAG}, a dark drone", "lyrics": "[Instrumental]", "language": "unknown", "duration": 1}
    versions = {"format_version": 1, "text_template_version": 1, "normalize": "none", "seed": 42, "dtype": "float32"}
    expected = {**labels, **versions, "audio_path": "sub/two.flac", "custom_tag": TAG, "tag_position": "prepend"}
    assert {key: metadata[key] for key in expected} == expected
    assert metadata["model_checkpoint"] == "acestep-v15-tiny"
    assert metadata["encoder_fingerprint"] == encoder_fingerprint(find_checkpoint(tiny_checkpoint))
    for data in tensors(standard[0]).values():
        assert str(audio_dir).encode() not in data
        assert b"pytest-of" not in data


def test_tensor_files_match_the_fingerprint_of_their_checkpoint(standard: Standard, tiny_checkpoint: Path) -> None:
    records = [read_record(path) for path in read_manifest(standard[0]).paths]
    assert check_fingerprint(records, find_checkpoint(tiny_checkpoint)) == []


def test_long_audio_is_truncated_and_normalized(tmp_path: Path) -> None:
    long = SampleSource("long.wav", song(tmp_path / "long.wav", 11, level=0.01), "long.pt", "", "", "", {})
    audio = load_sample_audio(long, "peak", 10).samples
    assert audio.shape == (2, 480_000)
    assert audio.abs().max().item() == pytest.approx(10 ** (-1 / 20), abs=1e-4)
