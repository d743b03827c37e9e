"""Adapter files that were made to harm: they end in an AdapterError before large memory or much time is spent."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.adapters.configs import LoHaConfig, LoKRConfig
from acestep.adapters.files import load_adapter, read_adapter
from acestep.core.errors import AceStepError, AdapterError, ModelMismatch
from acestep.exporting.importers import read_any
from acestep.exporting.package import export_adapter
from tests.adapters.small import LOHA, LOKR, LORA, answer, make_decoder, save, trained

MODULE = "layers.0.self_attn.q_proj"
PEFT = f"base_model.model.{MODULE}"
FLAT = "lycoris_layers_0_self_attn_q_proj"
SETTINGS = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}


def lora(folder: Path, *, a: Tensor | None = None, b: Tensor | None = None, **settings: Any) -> Path:
    """A LoRA of one module with these matrices and PEFT settings."""
    tensors = {f"{PEFT}.lora_A.weight": torch.ones(2, 64) if a is None else a}
    tensors[f"{PEFT}.lora_B.weight"] = torch.ones(64, 2) if b is None else b
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({**SETTINGS, **settings}))
    return folder


def lokr(folder: Path, parts: dict[str, Tensor], **settings: Any) -> Path:
    """A LoKr of one module."""
    known = {"linear_dim": 1, "linear_alpha": 1, **settings}
    tensors = {f"{FLAT}.{part}": value for part, value in parts.items()}
    save_file(tensors, folder / "lokr_weights.safetensors", {"lokr_config": json.dumps(known)})
    return folder


def raw(file: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def entry(start: int, end: int, shape: list[Any], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


LARGE = 20_000
TOO_LARGE = {
    "w2 of a LoKr": {
        "lokr_w1": torch.ones(1, 1),
        "lokr_w2_a": torch.ones(LARGE, 1),
        "lokr_w2_b": torch.ones(1, LARGE),
    },
    "w1 of a LoKr": {
        "lokr_w1_a": torch.ones(LARGE, 1),
        "lokr_w1_b": torch.ones(1, LARGE),
        "lokr_w2": torch.ones(1, 1),
    },
    "Kronecker product": {"lokr_w1": torch.ones(200, 200), "lokr_w2": torch.ones(200, 200)},
    "Tucker core": {
        "lokr_w1": torch.ones(1, 1),
        "lokr_t2": torch.ones(1, 1, 2),
        "lokr_w2_a": torch.ones(1, LARGE),
        "lokr_w2_b": torch.ones(1, LARGE),
    },
}


@pytest.mark.parametrize("parts", TOO_LARGE.values(), ids=TOO_LARGE)
def test_factors_whose_product_exceeds_every_weight_are_rejected(tmp_path: Path, parts: dict[str, Tensor]) -> None:
    folder = lokr(tmp_path, parts)
    for read in (read_adapter, read_any):
        with pytest.raises(AdapterError, match="more than any weight of ACE-Step 1.5"):
            read(folder)


def test_a_lora_whose_product_exceeds_every_weight_is_rejected(tmp_path: Path) -> None:
    folder = lora(tmp_path, a=torch.ones(1, LARGE), b=torch.ones(LARGE, 1))
    with pytest.raises(AdapterError, match="20,000 x 20,000 values"):
        export_adapter(folder, out=tmp_path / "out")


def test_a_huge_rank_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="has rank 100,000, the limit is 8,192"):
        read_adapter(lora(tmp_path, a=torch.ones(100_000, 1), b=torch.ones(1, 100_000)))


def test_settings_larger_than_the_matrices_do_not_take_their_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The modules are created small and get the matrices of the file; the settings are kept."""
    sizes: list[int] = []
    ones = torch.empty

    def counting(*shape: Any, **options: Any) -> Tensor:
        found = ones(*shape, **options)
        sizes.append(found.numel())
        return found

    for kind, config, large in (
        ("lokr", LOKR, LoKRConfig(factor=1)),
        ("loha", LOHA, LoHaConfig(r=1024)),
    ):
        folder = save(trained(make_decoder(), kind, config), tmp_path / kind)
        (file,) = folder.glob("*.safetensors")
        stored = read_adapter(file)
        tampered = type(stored)(file, kind, large, stored.weights, stored.metadata)
        before = answer(load_adapter(make_decoder(), folder).network)
        decoder = make_decoder()
        sizes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(torch, "empty", counting)
            from acestep.adapters.files import adapter_class

            adapter = adapter_class(kind).from_stored(decoder, tampered)
        assert adapter.config == large
        assert max(sizes) < 1000
        assert torch.equal(answer(adapter.network), before)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lora_alpha", float("nan")),
        ("lora_alpha", float("inf")),
        ("lora_alpha", 1e300),
        ("lora_alpha", -4),
        ("lora_alpha", 0),
        ("lora_alpha", True),
        ("lora_alpha", "4"),
        ("lora_alpha", [4]),
        ("r", 0),
        ("r", -1),
        ("r", True),
        ("r", 2.0),
        ("r", 10**9),
        ("alpha_pattern", {"q_proj": float("nan")}),
        ("alpha_pattern", {"q_proj": "x"}),
        ("alpha_pattern", "q_proj"),
    ],
)
def test_invalid_numbers_in_the_settings_are_reported(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(AdapterError, match=f"adapter_config.json has no valid {name}"):
        read_adapter(lora(tmp_path, **{name: value}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e30, [1.0, 2.0]])
def test_invalid_alphas_in_the_weights_are_reported(tmp_path: Path, value: object) -> None:
    parts = {"lokr_w1": torch.ones(8, 8), "lokr_w2_a": torch.ones(8, 1), "lokr_w2_b": torch.ones(1, 8)}
    with pytest.raises(AdapterError, match=r"no valid lycoris_layers_0_self_attn_q_proj\.alpha|NaN or infinite"):
        read_adapter(lokr(tmp_path, {**parts, "alpha": torch.tensor(value)}))


def test_alpha_patterns_are_module_names_and_not_regular_expressions(tmp_path: Path) -> None:
    names = {f"{MODULE}": 8, "^v_proj$": 6, "layers\\.1\\.mlp\\.up_proj": 6}
    stored = read_adapter(lora(tmp_path, alpha_pattern=names))
    assert torch.equal(stored.weights[f"{MODULE}.lora_B.weight"], torch.full((64, 2), 4.0))
    for hanging in ("(.*)*(.*)*(.*)*x", "(a|aa)+$", "q_proj|v_proj", ""):
        with pytest.raises(AdapterError, match="is not a module name"):
            read_adapter(lora(tmp_path, alpha_pattern={hanging: 8}))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int32, torch.bool, torch.complex64])
def test_dtypes_that_adapters_do_not_have_are_rejected(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = lora(tmp_path, a=torch.ones(2, 64).to(dtype))
    for read in (read_adapter, read_any):
        with pytest.raises(AdapterError, match="unsupported dtype"):
            read(folder)


HEADERS: dict[str, tuple[Any, bytes]] = {
    "overlap": ({"a": entry(0, 16, [4]), "b": entry(8, 24, [4])}, bytes(24)),
    "gap": ({"a": entry(0, 16, [4]), "b": entry(20, 36, [4])}, bytes(36)),
    "beyond the end": ({"a": entry(0, 4_000_000, [1000, 1000])}, bytes(16)),
    "negative": ({"a": entry(-16, 0, [4])}, bytes(16)),
    "negative shape": ({"a": entry(0, 16, [-2, -2])}, bytes(16)),
    "fractions": ({"a": entry(0, 16, [4.0])}, bytes(16)),
    "huge shape": ({"a": entry(0, 16, [10**200, 4])}, bytes(16)),
    "many dimensions": ({"a": entry(0, 4, [1] * 1000)}, bytes(4)),
    "empty matrix": ({f"{PEFT}.lora_A.weight": entry(0, 0, [0, 64])}, b""),
    "long name": ({"x" * 1_000_000: entry(0, 16, [4])}, bytes(16)),
    "no entry": ({"a": 3}, b""),
    "list": ([1, 2], b""),
    "no tensors": ({}, b""),
    "twice": (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', bytes(4)),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b""),
    "digits": (b'{"a":' + b"9" * 5000 + b"}", b""),
    "bytes after the tensors": ({"a": entry(0, 16, [4])}, bytes(1000)),
}


@pytest.mark.parametrize("name", HEADERS)
def test_damaged_headers_are_reported(tmp_path: Path, name: str) -> None:
    header, data = HEADERS[name]
    file = raw(tmp_path / "adapter_model.safetensors", header, data)
    for read in (read_adapter, read_any):
        with pytest.raises(AdapterError) as caught:
            read(file)
        assert str(file) in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100, 0])
def test_a_header_that_is_longer_than_the_file_is_reported(tmp_path: Path, length: int) -> None:
    file = raw(tmp_path / "adapter_model.safetensors", {"a": entry(0, 0, [0])}, length=length)
    with pytest.raises(AdapterError, match="no valid safetensors header"):
        read_adapter(file)


def test_a_fifo_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AdapterError, match="is not a regular file"):
        read_adapter(tmp_path / "pipe")
    folder = lora(tmp_path)
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        read_adapter(folder)


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3000, "a\0b", "\ud800"])
def test_invalid_paths_are_reported(tmp_path: Path, path: str) -> None:
    for read in (read_adapter, read_any):
        with pytest.raises(AceStepError):
            read(tmp_path / path)


def test_deep_json_in_the_metadata_is_ignored(tmp_path: Path) -> None:
    folder = lora(tmp_path)
    deep = "[" * 100_000 + "]" * 100_000
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors, folder / "adapter_model.safetensors", {"facts": deep, "config": deep, "steps": "9" * 5000})
    assert read_adapter(folder).metadata.facts == {}


def test_factors_that_do_not_fit_the_layer_are_reported_before_they_are_multiplied(tmp_path: Path) -> None:
    parts = {"lokr_w1": torch.ones(1, 1), "lokr_w2_a": torch.ones(9000, 1), "lokr_w2_b": torch.ones(1, 9000)}
    with pytest.raises(ModelMismatch, match=r"is \[9000, 9000\]"):
        load_adapter(make_decoder(), lokr(tmp_path, parts))


def test_values_that_overflow_when_scaled_are_reported(tmp_path: Path) -> None:
    folder = lora(tmp_path, b=torch.full((64, 2), 3e38), lora_alpha=1000)
    with pytest.raises(AdapterError, match="NaN or infinite"):
        read_adapter(folder)


def test_trained_adapters_are_still_read(tmp_path: Path) -> None:
    for kind, config in (("lora", LORA), ("lokr", LOKR), ("loha", LOHA)):
        folder = save(trained(make_decoder(), kind, config), tmp_path / kind)
        assert read_adapter(folder).kind == read_any(folder).kind == kind
