"""Unusable adapters are rejected with a clear error and leave the decoder unchanged."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.adapters.configs import AdapterConfig
from acestep.adapters.files import inject, load_adapter, load_weights_into, read_adapter
from acestep.core.errors import AdapterError, ModelMismatch
from tests.adapters.small import CARD, DORA, EVERY, KINDS, LOHA, LOKR, LORA, answer, make_decoder, save, trained

every_kind = pytest.mark.parametrize(("kind", "config"), EVERY)
Change = Callable[[dict[str, Tensor]], None]


def lora(tmp_path: Path) -> Path:
    return save(trained(make_decoder(), "lora", LORA), tmp_path / "a") / "adapter_model.safetensors"


def lokr(tmp_path: Path) -> Path:
    return save(trained(make_decoder(), "lokr", LOKR), tmp_path / "a") / "lokr_weights.safetensors"


def dora(tmp_path: Path) -> Path:
    return save(trained(make_decoder(), "dora", DORA), tmp_path / "a") / "adapter_model.safetensors"


def loha(tmp_path: Path) -> Path:
    return save(trained(make_decoder(), "loha", LOHA), tmp_path / "a") / "adapter_model.safetensors"


def change_tensors(file: Path, change: Change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(
        tensors, file, {"lokr_config": file.with_name("lokr_config.json").read_text()} if "lokr" in file.name else {}
    )


def change_settings(file: Path, **settings: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


@every_kind
def test_loading_an_xl_adapter_into_a_2b_model_reports_both_models(
    tmp_path: Path, kind: str, config: AdapterConfig
) -> None:
    metadata = dataclasses.replace(CARD, base_model="acestep-v15-xl-base", family="xl")
    folder = save(trained(make_decoder("xl"), kind, config), tmp_path / "a", metadata)
    decoder = make_decoder()
    base, names = answer(decoder), list(decoder.state_dict())
    with pytest.raises(ModelMismatch, match=r"acestep-v15-xl-base \(xl\).*2b family"):
        load_adapter(decoder, folder)
    assert list(decoder.state_dict()) == names
    assert torch.equal(answer(decoder), base)
    with pytest.raises(ModelMismatch, match=r"acestep-v15-xl-base \(xl\).*2b family"):
        load_weights_into(inject(decoder, kind, config, "both", True), folder)


@every_kind
def test_an_adapter_of_unknown_family_is_rejected_by_its_shapes(
    tmp_path: Path, kind: str, config: AdapterConfig
) -> None:
    metadata = dataclasses.replace(CARD, base_model="", family="")
    folder = save(trained(make_decoder("xl"), kind, config), tmp_path / "a", metadata)
    decoder = make_decoder()
    with pytest.raises(ModelMismatch, match=r"where .*k_proj is \[32, 80\].*2b family and has \[32, 64\]"):
        load_adapter(decoder, folder)
    load_adapter(make_decoder("xl"), folder)


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_an_adapter_for_a_deeper_model_is_rejected(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    folder = save(trained(make_decoder(num_layers=3), kind, config), tmp_path / "a")
    with pytest.raises(ModelMismatch, match="layers.2.*no such layer"):
        load_adapter(make_decoder(), folder)


@pytest.mark.parametrize("make", [lora, dora, lokr, loha])
def test_nan_values_are_reported_with_their_key(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    file = make(tmp_path)
    name = next(key for key in load_file(file) if "alpha" not in key)
    change_tensors(file, lambda tensors: tensors[name].view(-1)[3:4].fill_(torch.nan))
    with pytest.raises(AdapterError, match=f"NaN or infinite values in {name}"):
        read_adapter(file)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lora, "base_model.model.layers.0.self_attn.q_proj.lora_embedding_A"),
        (dora, "base_model.model.layers.0.self_attn.q_proj.dora_scale"),
        (dora, "base_model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"),
        (loha, "base_model.model.layers.0.self_attn.q_proj.hada_w3_a"),
        (loha, "layers.0.self_attn.q_proj.hada_w1_a"),
        (lora, "layers.0.self_attn.q_proj.lora_A.weight"),
        (lora, "base_model.model.layers.0.self_attn.q_proj.alpha"),
        (lokr, "lycoris_layers_0_self_attn_q_proj.lokr_t1"),
        (lokr, "layers_0_self_attn_q_proj.lokr_w1"),
    ],
)
def test_unknown_keys_are_reported(tmp_path: Path, make: Callable[[Path], Path], key: str) -> None:
    file = make(tmp_path)
    change_tensors(file, lambda tensors: tensors.update({key: torch.zeros(4, 4)}))
    with pytest.raises(AdapterError, match=f"{key}, which is not part of"):
        read_adapter(file)


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [(lora, "layers.0.self_attn.q_proj", "blocks.0.attn.query"), (lokr, "layers_0_self_attn_q_proj", "lora_te_text")],
)
def test_modules_of_another_model_are_rejected(
    tmp_path: Path, make: Callable[[Path], Path], old: str, new: str
) -> None:
    file = make(tmp_path)

    def rename(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if old in key]:
            tensors[key.replace(old, new)] = tensors.pop(key)

    change_tensors(file, rename)
    with pytest.raises(AdapterError, match=f"adapts {new}, which is not a linear layer"):
        read_adapter(file)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lora, "lora_A.weight"),
        (lora, "lora_B.weight"),
        (dora, "lora_B.weight"),
        (dora, "lora_magnitude_vector"),
        (lokr, "lokr_w2_a"),
        (lokr, "lokr_w2_b"),
        (loha, "hada_w1_a"),
        (loha, "hada_w2_b"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "misshapen"])
def test_incomplete_modules_are_reported(tmp_path: Path, make: Callable[[Path], Path], part: str, damage: str) -> None:
    file = make(tmp_path)

    def spoil(tensors: dict[str, Tensor]) -> None:
        key = next(key for key in tensors if key.endswith(part) and "layers.1.mlp.up" in key.replace("_", "."))
        value = tensors.pop(key)
        if damage == "misshapen":
            tensors[key] = torch.zeros([size + 1 for size in value.shape])

    change_tensors(file, spoil)
    with pytest.raises(AdapterError, match=r"layers\.1\.mlp\.up_proj are missing or their shapes do not match"):
        read_adapter(file)


def test_lokr_without_metadata_is_rejected(tmp_path: Path) -> None:
    file = lokr(tmp_path)
    save_file(load_file(file), tmp_path / "bare.safetensors")
    with pytest.raises(AdapterError, match="has no valid linear_dim and linear_alpha"):
        read_adapter(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("settings", ["{broken", "[]", "{}", '{"linear_dim": "2", "linear_alpha": 1}'])
def test_lokr_with_invalid_metadata_is_rejected(tmp_path: Path, settings: str) -> None:
    file = lokr(tmp_path)
    save_file(load_file(file), file, {"lokr_config": settings})
    with pytest.raises(AdapterError, match="has no valid linear_dim and linear_alpha"):
        read_adapter(file)


@pytest.mark.parametrize("wrong", [{"linear_dim": 64}, {"linear_alpha": 128.0}, {"rs_lora": True, "linear_alpha": 8.0}])
def test_lokr_with_the_metadata_of_another_file_is_rejected(tmp_path: Path, wrong: dict[str, object]) -> None:
    file = lokr(tmp_path)
    settings = json.loads(file.with_name("lokr_config.json").read_text())
    save_file(load_file(file), file, {"lokr_config": json.dumps({**settings, **wrong})})
    with pytest.raises(AdapterError, match="its settings give"):
        read_adapter(file)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "LOHA"}, "does not describe a LoRA"),
        ({"use_dora": True}, "describes a DoRA, but .* is a LoRA"),
        ({"lora_alpha": None}, "no valid lora_alpha"),
        ({"r": "4"}, "no valid r"),
        ({"alpha_pattern": [1]}, "no valid alpha_pattern"),
    ],
)
def test_invalid_adapter_config_is_rejected(tmp_path: Path, settings: dict[str, object], words: str) -> None:
    file = lora(tmp_path)
    change_settings(file.with_name("adapter_config.json"), **settings)
    with pytest.raises(AdapterError, match=words):
        read_adapter(file)


@pytest.mark.parametrize(
    ("make", "settings", "words"),
    [
        (dora, {"use_dora": False}, "describes a LoRA, but .* is a DoRA"),
        (loha, {"peft_type": "LORA"}, "does not describe a LoHa"),
        (loha, {"alpha": None}, "no valid alpha"),
    ],
)
def test_adapter_config_of_another_kind_is_rejected(
    tmp_path: Path, make: Callable[[Path], Path], settings: dict[str, object], words: str
) -> None:
    file = make(tmp_path)
    change_settings(file.with_name("adapter_config.json"), **settings)
    with pytest.raises(AdapterError, match=words):
        read_adapter(file)


@pytest.mark.parametrize("make", [lora, dora, loha])
def test_adapters_of_other_programs_need_their_config(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    file = make(tmp_path)
    save_file(load_file(file), tmp_path / "bare.safetensors", {"format": "pt"})
    with pytest.raises(AdapterError, match="no adapter_config.json beside it"):
        read_adapter(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\x80\x04cposix\nsystem\n."])
def test_files_that_are_not_safetensors_are_rejected(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(content)
    with pytest.raises(AdapterError, match="cannot be read as safetensors"):
        read_adapter(tmp_path)


def test_truncated_files_are_rejected(tmp_path: Path) -> None:
    file = lora(tmp_path)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(AdapterError, match="cannot be read as safetensors"):
        read_adapter(file)


def test_weights_of_no_known_kind_report_the_supported_kinds(tmp_path: Path) -> None:
    save_file({"lycoris_layers_0_mlp_up_proj.oft_blocks": torch.ones(2, 2)}, tmp_path / "oft.safetensors")
    with pytest.raises(AdapterError, match="no adapter of a supported kind") as caught:
        read_adapter(tmp_path / "oft.safetensors")
    assert "LoRA, DoRA, LoKr, LoHa" in caught.value.hint


@pytest.mark.parametrize("name", ["missing", "empty folder with spaces"])
def test_a_path_without_an_adapter_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty folder with spaces").mkdir()
    with pytest.raises(AdapterError, match=name) as caught:
        read_adapter(tmp_path / name)
    assert caught.value.hint


def test_a_second_adapter_is_rejected_until_the_first_is_removed(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    decoder = make_decoder()
    first = load_adapter(decoder, folder)
    with pytest.raises(AdapterError, match="already has an adapter"):
        load_adapter(decoder, folder)
    first.remove()
    load_adapter(decoder, folder)
