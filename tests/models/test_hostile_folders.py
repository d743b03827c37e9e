"""A model folder never chooses code to run, kernels to download or other files to read."""

from __future__ import annotations

import ast
import io
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.captioning.omni import OmniModel, Sampling
from acestep.captioning.tiny import create_tiny_omni
from acestep.core.errors import CheckpointError
from acestep.core.paths import PROJECT
from acestep.models.checkpoint import find_checkpoint
from acestep.models.load import load_text_encoder, load_vae
from tests.models.checkpoint_layouts import copied

TEXT_ENCODER = "Qwen3-Embedding-0.6B"
_CODE = "from pathlib import Path\nPath({marker!r}).touch()\n\nclass Evil:\n    pass\n"
_AUTO_MAP = {
    "AutoConfig": "evil.Evil",
    "AutoModel": "evil.Evil",
    "AutoModelForCausalLM": "evil.Evil",
    "AutoTokenizer": ["evil.Evil", "evil.Evil"],
    "AutoFeatureExtractor": "evil.Evil",
}


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint with its own text encoder and VAE, to be modified."""
    for name in (TEXT_ENCODER, "vae"):
        shutil.copytree(tiny_checkpoint.parent / name, tmp_path / name)
    return copied(tiny_checkpoint, tmp_path)


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return create_tiny_omni(tmp_path_factory.mktemp("omni"), "captioner")


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that code of a model folder would create; every question in the terminal is answered with y."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    yield tmp_path / "executed"
    assert not (tmp_path / "executed").exists()


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def plant(folder: Path, marker: Path, **config: Any) -> None:
    """Add a Python file that creates ``marker``, and the keys that make transformers run it."""
    (folder / "evil.py").write_text(_CODE.format(marker=str(marker)))
    for path in folder.glob("*config.json"):
        change(path, auto_map=_AUTO_MAP)
    change(folder / "config.json", **config)


def test_every_call_of_from_pretrained_forbids_remote_code() -> None:
    calls = [
        (path.name, node)
        for path in (PROJECT / "acestep").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained"
    ]
    assert len(calls) >= 4
    for name, call in calls:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("trust_remote_code") == "False", f"{name}:{call.lineno}"
        assert given.get("local_files_only") == "True", f"{name}:{call.lineno}"


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"_name_or_path": "somewhere/else", "name_or_path": "somewhere/else"},
        {"attn_implementation": "kernels-community/flash-attn", "_attn_implementation": "eager"},
        {"transformers_weights": "other.safetensors", "fusion_config": {"a": True}, "custom_pipelines": {"a": {}}},
    ],
)
def test_a_text_encoder_with_code_gives_the_usual_output(
    checkpoint: Path, tiny_checkpoint: Path, marker: Path, config: dict[str, Any]
) -> None:
    folder = checkpoint.parent / TEXT_ENCODER
    plant(folder, marker, **config)
    change(folder / "tokenizer_config.json", vocab_file="/etc/hostname", fast_tokenizer_files=["tokenizer.0.json"])
    (folder / "tokenizer.0.json").write_text("{}")

    loaded, expected = load_text_encoder(checkpoint), load_text_encoder(tiny_checkpoint)

    assert torch.equal(loaded.encode_prompt("a song"), expected.encode_prompt("a song"))
    assert loaded.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_quantized_model_is_rejected(checkpoint: Path, captioner: Path, tmp_path: Path, key: str) -> None:
    quantized = {key: {"quant_method": "bitsandbytes", "load_in_8bit": True}}
    change(checkpoint.parent / TEXT_ENCODER / "config.json", **quantized)
    change(checkpoint.parent / "vae" / "config.json", **quantized)
    with pytest.raises(CheckpointError, match=f"{key}: quantized models are not supported"):
        load_text_encoder(checkpoint)
    with pytest.raises(CheckpointError, match=key):
        load_vae(checkpoint)
    folder = Path(shutil.copytree(captioner, tmp_path / "captioner"))
    thinker = json.loads((folder / "config.json").read_text(encoding="utf-8"))["thinker_config"]
    change(folder / "config.json", thinker_config={**thinker, **quantized})
    with pytest.raises(CheckpointError, match=key):
        OmniModel.load(folder, device="cpu", dtype=torch.float32)


def set_model_type(folder: Path) -> None:
    change(folder / "config.json", model_type="evil")


def set_tokenizer_class(folder: Path) -> None:
    change(folder / "tokenizer_config.json", tokenizer_class="os.path")


def add_adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "somewhere/else"}')


def add_distributed_shard(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "shard-00001-model-00001-of-00001.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (set_model_type, "of type 'evil', expected 'qwen3'"),
        (set_tokenizer_class, "tokenizer_class is 'os.path'"),
        (add_adapter, "contains an adapter"),
        (add_distributed_shard, "distributed checkpoint"),
    ],
)
def test_a_folder_that_asks_for_another_class_or_folder_is_rejected(
    checkpoint: Path, marker: Path, damage: Callable[[Path], None], message: str
) -> None:
    plant(checkpoint.parent / TEXT_ENCODER, marker)
    damage(checkpoint.parent / TEXT_ENCODER)
    with pytest.raises(CheckpointError, match=message):
        load_text_encoder(checkpoint)


def test_code_beside_a_captioner_a_vae_and_a_base_model_is_not_run(
    checkpoint: Path, captioner: Path, marker: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(captioner, tmp_path / "captioner"))
    for each in (checkpoint, checkpoint.parent / "vae", folder):
        plant(each, marker, attn_implementation="kernels-community/flash-attn")
    find_checkpoint(checkpoint)
    load_vae(checkpoint)
    model = OmniModel.load(folder, device="cpu", dtype=torch.float32)
    original = OmniModel.load(captioner, device="cpu", dtype=torch.float32)
    question = ("?", None, Sampling(8, 0.0), lambda: False)
    assert model.generate(*question) == original.generate(*question)
