"""Checkpoint folders that were made to harm: they end in a CheckpointError before a module is built from them."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.core.errors import AceStepError, CheckpointError
from acestep.models.checkpoint import SILENCE_FILE, check_checkpoint, find_checkpoint
from acestep.models.load import load_silence_latent, load_text_encoder, load_vae
from tests.models.checkpoint_layouts import copied

NAN = float("nan")


def changed(folder: Path, **change: Any) -> Path:
    """The folder with changes of its config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **change}), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**8),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", True),
        ("num_lyric_encoder_hidden_layers", 10**8),
        ("hidden_size", 10**12),
        ("hidden_size", 0),
        ("encoder_hidden_size", "x"),
        ("num_key_value_heads", 3),
        ("timestep_mu", "x"),
        ("timestep_mu", NAN),
        ("timestep_sigma", -1.0),
        ("timestep_sigma", float("inf")),
        ("rms_norm_eps", NAN),
        ("rms_norm_eps", None),
        ("rope_theta", 0),
        ("rope_theta", [1]),
        ("layer_types", {"full_attention": 1}),
        ("layer_types", [[]]),
        ("layer_types", ["x"] * 2),
        ("fsq_input_levels", [4096] * 16),
        ("fsq_input_levels", []),
        ("fsq_input_levels", "88855"),
        ("fsq_input_num_quantizers", 10**9),
    ],
)
def test_invalid_values_of_the_config_are_reported(tiny_checkpoint: Path, tmp_path: Path, key: str, value: Any) -> None:
    with pytest.raises(CheckpointError, match=f"{key} in its config.json must be"):
        find_checkpoint(changed(copied(tiny_checkpoint, tmp_path), **{key: value}))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100 + "1" + "}" * 100,
        '{"hidden_size": 64, "hidden_size": 65}',
        '{"hidden_size": ' + "9" * 5000 + "}",
        '{"model_version": "\\ud800"}',
        "[]",
    ],
    ids=["deep", "levels", "twice", "digits", "surrogate", "list"],
)
def test_malformed_json_is_reported(tiny_checkpoint: Path, tmp_path: Path, text: str) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        find_checkpoint(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", SILENCE_FILE])
def test_a_fifo_in_place_of_a_file_does_not_block(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError):
        check_checkpoint(find_checkpoint(folder))


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "a\0b", "\ud800", "~nobody-here/x"])
def test_invalid_paths_are_reported(tmp_path: Path, path: str) -> None:
    for tried in (path, tmp_path / path):
        with pytest.raises(AceStepError):
            find_checkpoint(tried)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def compressed() -> bytes:
    """64 MB of zeros that take less than 100 KB."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(torch.zeros(1, 64, 250_000)))) as source,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return buffer.getvalue()


UNUSABLE: dict[str, Callable[[], bytes]] = {
    "expanded": lambda: saved(torch.zeros(1, 1, 1).expand(1, 64, 10**12)),
    "sparse": lambda: saved(torch.zeros(1, 64, 5).to_sparse()),
    "meta": lambda: saved(torch.zeros(1, 64, 5, device="meta")),
    "quantized": lambda: saved(torch.quantize_per_tensor(torch.zeros(1, 64, 5), 0.1, 0, torch.qint8)),
    "fp8": lambda: saved(torch.zeros(1, 64, 5).to(torch.float8_e4m3fn)),
    "complex": lambda: saved(torch.zeros(1, 64, 5, dtype=torch.complex64)),
    "NaN": lambda: saved(torch.full((1, 64, 5), NAN)),
    "text": lambda: saved("x"),
    "compressed": compressed,
    "truncated": lambda: saved(torch.zeros(1, 64, 5))[:-30],
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_silence_latent_is_reported(tiny_checkpoint: Path, tmp_path: Path, name: str) -> None:
    folder = copied(tiny_checkpoint, tmp_path)
    (folder / SILENCE_FILE).write_bytes(UNUSABLE[name]())
    with pytest.raises(CheckpointError, match="silence_latent"):
        load_silence_latent(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"downsampling_ratios": [2] * 1_000_000},
        {"downsampling_ratios": ["x"]},
        {"channel_multiples": [10**9]},
        {"encoder_hidden_size": 10**12},
        {"encoder_hidden_size": "x"},
        {"decoder_channels": -5},
        {"audio_channels": NAN},
    ],
)
def test_an_invalid_config_of_the_vae_is_reported(tiny_root: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    folder = copied(tiny_root / "acestep-v15-tiny", tmp_path)
    changed(copied(tiny_root / "vae", tmp_path), **change)
    with pytest.raises(CheckpointError, match="vae"):
        load_vae(folder)


@pytest.mark.parametrize(
    "change", [{"num_hidden_layers": 10**8}, {"hidden_size": 10**12}, {"rms_norm_eps": NAN}, {"num_hidden_layers": "x"}]
)
def test_an_invalid_config_of_the_text_encoder_is_reported(
    tiny_root: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = copied(tiny_root / "acestep-v15-tiny", tmp_path)
    copied(tiny_root / "vae", tmp_path)
    changed(copied(tiny_root / "Qwen3-Embedding-0.6B", tmp_path), **change)
    with pytest.raises(CheckpointError, match="Qwen3-Embedding"):
        load_text_encoder(folder)
