"""The content of adapter files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from acestep.adapters.configs import AdapterConfig, LoKRConfig, LoRAConfig
from acestep.adapters.files import inject, read_adapter, read_metadata
from acestep.adapters.metadata import AdapterMetadata
from tests.adapters.small import (
    CARD,
    DORA,
    EVERY,
    LOHA,
    LOKR,
    LOKR_WHOLE,
    LORA,
    PISSA,
    RSLORA,
    make_decoder,
    save,
    trained,
)

every_kind = pytest.mark.parametrize(("kind", "config"), EVERY)


def contents(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(file, framework="pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118


def test_a_lora_file_has_original_names_and_the_scale_in_its_weights(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "lora", LORA, train_mlp=False)
    tensors, _ = contents(save(adapter, tmp_path / "a") / "adapter_model.safetensors")
    names = [f"layers.{n}.{branch}_attn.{x}_proj" for n in range(2) for branch in ("self", "cross") for x in "qkvo"]
    assert set(tensors) == {f"base_model.model.{name}.lora_{part}.weight" for name in names for part in "AB"}
    for key, value in adapter.state().items():
        scale = 2.0 if "lora_B" in key else 1.0  # alpha 8, rank 4
        assert torch.equal(tensors[f"base_model.model.{key}"], value * scale)


def test_adapter_config_json_is_minimal_with_alpha_equal_to_rank(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "lora", LORA)
    settings = json.loads((save(adapter, tmp_path / "a") / "adapter_config.json").read_text())
    assert settings == {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": "acestep-v15-tiny",
        "r": 4,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [
            *[f"cross_attn.{x}_proj" for x in "koqv"],
            *[f"mlp.{x}_proj" for x in ("down", "gate", "up")],
            *[f"self_attn.{x}_proj" for x in "koqv"],
        ],
        "rank_pattern": {},
        "alpha_pattern": {},
        "inference_mode": True,
        "trigger_word": "zyx",
        "tag_position": "append",
    }


def test_lora_metadata_records_the_training_settings(tmp_path: Path) -> None:
    _, metadata = contents(save(trained(make_decoder(), "lora", LORA), tmp_path / "a") / "adapter_model.safetensors")
    assert metadata["format"] == "pt"
    assert metadata["base_model"] == "acestep-v15-tiny"
    assert metadata["family"] == "2b"
    assert metadata["variant"] == "turbo"
    assert metadata["trigger_word"] == "zyx"
    assert metadata["tag_position"] == "append"
    assert json.loads(metadata["config"]) == LORA.model_dump()


@pytest.mark.parametrize("config", [LOKR, LOKR_WHOLE])
def test_a_lokr_file_has_the_keys_that_lycoris_and_the_app_read(tmp_path: Path, config: LoKRConfig) -> None:
    adapter = trained(make_decoder(), "lokr", config, train_mlp=False)
    folder = save(adapter, tmp_path / "a", dtype=torch.bfloat16)
    tensors, metadata = contents(folder / "lokr_weights.safetensors")
    names = [f"layers_{n}_{branch}_attn_{x}_proj" for n in range(2) for branch in ("self", "cross") for x in "qkvo"]
    parts = ["lokr_w1", "lokr_w2"] if config is LOKR_WHOLE else ["lokr_w1", "lokr_w2_a", "lokr_w2_b"]
    assert set(tensors) == {f"lycoris_{name}.{part}" for name in names for part in [*parts, "alpha"]}
    alphas = [value for key, value in tensors.items() if key.endswith(".alpha")]
    assert {(value.dtype, value.dim(), float(value)) for value in alphas} == {(torch.float32, 0, config.linear_dim)}
    assert {value.dtype for key, value in tensors.items() if not key.endswith(".alpha")} == {torch.bfloat16}
    settings = json.loads(metadata["lokr_config"])
    assert settings["linear_dim"] == settings["linear_alpha"] == config.linear_dim
    assert settings["factor"] == config.factor
    assert settings["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert (metadata["algo"], metadata["format"]) == ("lokr", "lycoris")
    assert json.loads(json.loads(metadata["run_metadata"])["config"]) == config.model_dump()
    beside = json.loads((folder / "lokr_config.json").read_text())
    assert beside == {"adapter_type": "lokr", "algo": "lokr", **settings}
    assert (beside["trigger_word"], beside["tag_position"]) == ("zyx", "append")


def test_weights_are_bf16_by_default(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "lora", LORA)
    (tmp_path / "a").mkdir()
    adapter.save(tmp_path / "a", CARD)
    small, _ = contents(tmp_path / "a" / "adapter_model.safetensors")
    exact, _ = contents(save(adapter, tmp_path / "b", dtype=torch.float32) / "adapter_model.safetensors")
    assert {value.dtype for value in small.values()} == {torch.bfloat16}
    assert all(torch.equal(value.bfloat16(), small[key]) for key, value in exact.items())


@every_kind
def test_equal_adapters_give_equal_files(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    folders = [save(trained(make_decoder(), kind, config), tmp_path / str(number)) for number in range(3)]
    for file in folders[0].iterdir():
        assert len({(folder / file.name).read_bytes() for folder in folders}) == 1


@every_kind
def test_metadata_round_trip(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    metadata = AdapterMetadata(
        base_model="acestep-v15-xl-base",
        family="xl",
        variant="base",
        trigger_word='Ünï "quoted"\n',
        tag_position="replace",
        attention_type="self",
        train_mlp=False,
        steps=120,
        epochs=7,
        dataset_hash="abc123",
        facts={"learning_rate": 1e-4, "songs": 8, "optimizer": "adamw", "resumed": False},
    )
    adapter = inject(make_decoder(), kind, config, "self", False)
    adapter.load_state({key: value + 0.1 for key, value in adapter.state().items()})
    found = read_metadata(save(adapter, tmp_path / "a", metadata))
    assert found == metadata.with_config(kind, config.model_dump())


@every_kind
def test_no_trigger_word_is_written_without_a_tag(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    folder = save(trained(make_decoder(), kind, config), tmp_path / "a", AdapterMetadata(tag_position="prepend"))
    settings = json.loads(next(folder.glob("*.json")).read_text())
    assert "trigger_word" not in settings
    assert "tag_position" not in settings


def test_foreign_metadata_is_ignored() -> None:
    odd = {
        "steps": "many",
        "facts": "[1]",
        "train_mlp": "3",
        "base_model": "x",
        "ss_network_dim": "4",
        "epochs": "true",
    }
    assert AdapterMetadata.from_file_metadata(odd | {"config": "{broken"}) == AdapterMetadata(base_model="x")


def test_a_dora_file_is_a_lora_file_with_exact_magnitudes(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "dora", DORA, train_mlp=False)
    folder = save(adapter, tmp_path / "a", dtype=torch.bfloat16)
    tensors, metadata = contents(folder / "adapter_model.safetensors")
    parts = ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    name = "layers.1.cross_attn.k_proj"
    assert {key.removeprefix(f"base_model.model.{name}.") for key in tensors if name in key} == set(parts)
    assert tensors[f"base_model.model.{name}.lora_B.weight"].dtype == torch.bfloat16
    magnitude = tensors[f"base_model.model.{name}.lora_magnitude_vector"]
    assert torch.equal(magnitude, adapter.state()[f"{name}.lora_magnitude_vector"])
    assert magnitude.shape == (32,)
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["use_dora"], settings["r"], settings["lora_alpha"]) == ("LORA", True, 4, 4)
    assert metadata["kind"] == "dora"


def test_a_loha_file_has_peft_format_and_the_scale_in_its_weights(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "loha", LOHA, train_mlp=False)
    folder = save(adapter, tmp_path / "a")
    tensors, metadata = contents(folder / "adapter_model.safetensors")
    for key, value in adapter.state().items():
        assert torch.equal(tensors[f"base_model.model.{key}"], value * (2.0 if key.endswith("hada_w1_a") else 1.0))
    assert len(tensors) == len(adapter.state())
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["target_modules"] == [f"{branch}_attn.{x}_proj" for branch in ("cross", "self") for x in "koqv"]
    assert (settings["peft_type"], settings["r"], settings["alpha"]) == ("LOHA", 4, 4)
    assert (settings["rank_pattern"], settings["alpha_pattern"]) == ({}, {})
    assert (settings["trigger_word"], metadata["trigger_word"]) == ("zyx", "zyx")


def test_a_pissa_file_is_a_plain_lora_of_twice_the_rank(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "lora", PISSA)
    folder = save(adapter, tmp_path / "a", dtype=torch.bfloat16)
    tensors, _ = contents(folder / "adapter_model.safetensors")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["rank_pattern"]) == (8, 8, {})
    state, name = adapter.state(), "layers.0.mlp.down_proj"
    a, b, a0, b0 = (state[f"{name}.lora_{part}"] for part in ("A.weight", "B.weight", "A.start", "B.start"))
    found = (tensors[f"base_model.model.{name}.lora_{half}.weight"].float() for half in "BA")
    wanted = 2 * (b @ a - b0 @ a0)
    assert float((next(found) @ next(found) - wanted).norm()) < 5e-3 * float(wanted.norm())


@pytest.mark.parametrize("step", [1e-3, 1e-2])
def test_small_updates_from_pissa_initialization_survive_bf16_files(tmp_path: Path, step: float) -> None:
    adapter = inject(make_decoder(), "lora", PISSA, "both", True)
    generator = torch.Generator().manual_seed(3)
    state = adapter.state()
    moved = {
        key: value if key.endswith(".start") else value + step * torch.randn(value.shape, generator=generator)
        for key, value in state.items()
    }
    adapter.load_state(moved)
    exact, written = adapter.folded(), read_adapter(save(adapter, tmp_path / "a", dtype=torch.bfloat16)).weights
    name = "layers.0.mlp.down_proj"
    wanted, found = (x[f"{name}.lora_B.weight"] @ x[f"{name}.lora_A.weight"] for x in (exact, written))
    assert 0 < float((found - wanted).norm()) < 5e-3 * float(wanted.norm())


def test_ranks_of_individual_modules_are_saved_as_patterns(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", RSLORA), tmp_path / "a")
    settings = json.loads((folder / "adapter_config.json").read_text())
    others = {f"layers.{n}.{branch}.q_proj": 2 for n in range(2) for branch in ("self_attn", "cross_attn")}
    others |= {"layers.0.self_attn.v_proj": 6}
    ranks = dict.fromkeys(others, settings["r"]) | settings["rank_pattern"]
    assert {name: ranks[name] for name in others} == others
    assert settings["rank_pattern"] == settings["alpha_pattern"]
    assert settings["r"] == settings["lora_alpha"] == 6
    assert not settings.get("use_rslora")


def test_different_ranks_are_saved_as_patterns(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "lora", LoRAConfig(r=4, alpha=4, dropout=0.0), train_mlp=False)
    weights = adapter.folded()
    thin = "layers.1.cross_attn.v_proj"
    weights[f"{thin}.lora_A.weight"] = weights[f"{thin}.lora_A.weight"][:3]
    weights[f"{thin}.lora_B.weight"] = weights[f"{thin}.lora_B.weight"][:, :3]
    adapter.write(tmp_path, weights, adapter.config, CARD, torch.float32)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"]) == (4, 4)
    assert settings["rank_pattern"] == settings["alpha_pattern"] == {thin: 3}
