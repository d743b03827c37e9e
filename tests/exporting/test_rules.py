"""The keys that other programs recognize, and exports of adapters from other trainers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acestep.adapters.files import load_adapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.exporting.package import export_adapter
from acestep.exporting.targets import comfyui, diffusers
from tests.adapters.lycoris_reference import apply_lokr
from tests.adapters.small import LOKR, LOKR_WHOLE, LORA, make_decoder, save, trained
from tests.adapters.test_loading import stock_lokr, stock_lora
from tests.exporting.comfyui import key_map, load_into
from tests.exporting.models import error, probe_output
from tests.exporting.readers import by_comfyui, by_diffusers, by_the_app

A, B = torch.ones(2, 3), torch.ones(4, 2)


@pytest.mark.parametrize(
    "prefix",
    [
        "base_model.model.layers.0.self_attn.q_proj",
        "lycoris_layers_0_self_attn_q_proj",
        "diffusion_model.decoder.layers.0.self_attn.q_proj",
        "lora_unet_decoder_layers_0_self_attn_q_proj",
    ],
)
def test_comfyui_recognizes_four_prefixes(prefix: str) -> None:
    tensors = {f"{prefix}.lora_up.weight": B, f"{prefix}.lora_down.weight": A, f"{prefix}.alpha": torch.tensor(4.0)}
    found = comfyui.load(tensors)
    assert found.ignored_keys == []
    assert torch.equal(found.modules["layers.0.self_attn.q_proj"]["lora_B"], 2 * B)
    assert prefix in key_map(make_decoder())


@pytest.mark.parametrize(
    "prefix",
    [
        "transformer.layers.0.self_attn.to_q",
        "decoder.layers.0.self_attn.q_proj",
        "diffusion_model.layers.0.self_attn.q_proj",
        "base_model.model.decoder.layers.0.self_attn.q_proj",
        "layers.0.self_attn.q_proj",
        "base_model.model.layers.0.self_attn.qkv",
    ],
)
def test_comfyui_ignores_other_prefixes(tmp_path: Path, prefix: str) -> None:
    tensors = {f"{prefix}.lora_A.weight": A, f"{prefix}.lora_B.weight": B}
    assert sorted(comfyui.load(tensors).ignored_keys) == sorted(tensors)
    save_file(tensors, tmp_path / "a.safetensors")
    assert sorted(load_into(make_decoder(), tmp_path / "a.safetensors")) == sorted(tensors)


def test_diffusers_recognizes_original_names_only_with_an_attention_key() -> None:
    mlp = {f"base_model.model.layers.0.mlp.up_proj.lora_{x}.weight": tensor for x, tensor in (("A", A), ("B", B))}
    assert sorted(diffusers.load(mlp).ignored_keys) == sorted(mlp)
    attention = {key.replace("mlp.up_proj", "self_attn.q_proj"): tensor for key, tensor in mlp.items()}
    assert set(diffusers.load(mlp | attention).modules) == {"layers.0.mlp.up_proj", "layers.0.self_attn.q_proj"}
    own = {"transformer.layers.0.self_attn.to_out.0.lora_A.weight": A}
    own["transformer.layers.0.self_attn.to_out.0.lora_B.weight"] = B
    assert set(diffusers.load(own).modules) == {"layers.0.self_attn.o_proj"}


def test_diffusers_ignores_a_file_with_one_key_without_lora() -> None:
    tensors = {f"base_model.model.layers.0.self_attn.q_proj.lora_{x}.weight": A for x in "AB"}
    tensors["base_model.model.layers.0.self_attn.q_proj.alpha"] = torch.tensor(2.0)
    assert diffusers.load(tensors).modules == {}


@pytest.mark.parametrize("settings", [{"linear_dim": 10000}, {"linear_dim": 2, "factor": -1}, {"linear_dim": 3}])
def test_a_lokr_on_every_layer_gives_the_same_output_in_every_program(tmp_path: Path, settings: dict[str, int]) -> None:
    """ace-lora-trainer also adapts the first convolution: ComfyUI needs a diff, diffusers its own key names."""
    stock_lokr(tmp_path / "run", **settings)
    decoder = make_decoder()
    base = probe_output(decoder)
    load_adapter(decoder, tmp_path / "run" / "adapter")
    expected = probe_output(decoder)
    written = export_adapter(tmp_path / "run", "all", out=tmp_path / "out")["targets"]
    assert error(by_the_app(make_decoder(), Path(written["acestep"]["adapter"])), expected, base) < 1e-4
    full = settings["linear_dim"] == 10000
    assert written["acestep"]["form"] == "lokr"
    assert written["comfyui"]["form"] == ("lokr and full weight differences (diff)" if full else "lokr")
    keys = load_file(written["comfyui"]["adapter"])
    assert [key for key in keys if key.endswith(".diff")] == ["base_model.model.proj_in.1.diff"] * full
    assert error(by_comfyui(make_decoder(), Path(written["comfyui"]["adapter"])), expected, base) < 1e-4
    assert written["diffusers"]["form"] == "lora"
    assert written["diffusers"]["modules"] == 30
    assert written["diffusers"]["notes"] == []
    assert error(by_diffusers(make_decoder(), Path(written["diffusers"]["adapter"])), expected, base) < 1e-4


@pytest.mark.parametrize(("wrong", "form"), [({"factor": 8}, "lokr"), ({"linear_dim": 2, "factor": -1}, "lokr")])
def test_a_lokr_config_that_the_app_cannot_load_is_corrected(tmp_path: Path, wrong: dict[str, int], form: str) -> None:
    decoder = make_decoder()
    base = probe_output(decoder)
    adapter = trained(decoder, "lokr", LOKR_WHOLE if "linear_dim" in wrong else LOKR)
    expected = probe_output(decoder)
    folder = save(adapter, tmp_path / "run" / "final" / "adapter", AdapterMetadata())
    file = folder / "lokr_weights.safetensors"
    with safe_open(file, framework="pt") as opened:
        metadata = dict(opened.metadata())
    settings = {**json.loads(metadata["lokr_config"]), **wrong}
    save_file(load_file(file), file, {"lokr_config": json.dumps(settings)})
    result = export_adapter(tmp_path / "run", "acestep", out=tmp_path / "out")
    assert result["form"] == form
    assert error(by_the_app(make_decoder(), tmp_path / "out"), expected, base) < 1e-4


def test_an_unbalanced_lokr_is_exported_to_the_app_unchanged(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    flat = "lycoris_layers_0_self_attn_q_proj"
    tensors = {
        f"{flat}.lokr_w1": torch.randn(16, 4, generator=generator),
        f"{flat}.lokr_w2": torch.randn(4, 16, generator=generator),
    }
    settings = {"linear_dim": 10000, "linear_alpha": 1, "factor": 4, "unbalanced_factorization": True}
    save_file(tensors, tmp_path / "lokr_weights.safetensors", {"lokr_config": json.dumps(settings)})
    result = export_adapter(tmp_path / "lokr_weights.safetensors", "acestep", out=tmp_path / "out")
    assert result["form"] == "lokr"
    ours, app = make_decoder(), make_decoder()
    base = probe_output(ours)
    load_adapter(ours, tmp_path / "lokr_weights.safetensors")
    apply_lokr(app, tmp_path / "out" / "lokr_weights.safetensors")
    assert error(probe_output(app), probe_output(ours), base) < 1e-5


def test_the_export_corrects_the_scale_of_a_lora_with_twice_the_alpha_for_comfyui(tmp_path: Path) -> None:
    stock_lora(tmp_path / "run", lora_alpha=8, r=4)
    decoder = make_decoder()
    base = probe_output(decoder)
    adapter = load_adapter(decoder, tmp_path / "run" / "adapter")
    expected = probe_output(decoder)
    adapter.set_strength(0.5)
    half = probe_output(decoder)
    raw = by_comfyui(make_decoder(), tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert error(raw, half, base) < 1e-4
    result = export_adapter(tmp_path / "run", "comfyui", out=tmp_path / "out")
    assert error(by_comfyui(make_decoder(), Path(result["adapter"])), expected, base) < 1e-4


def test_an_xl_adapter_is_exported_to_every_program(tmp_path: Path) -> None:
    decoder = make_decoder("xl")
    base = probe_output(decoder)
    adapter = trained(decoder, "lora", LORA)
    expected = probe_output(decoder)
    save(adapter, tmp_path / "run" / "final" / "adapter")
    written = export_adapter(tmp_path / "run", "all", out=tmp_path / "out")["targets"]
    readers = {"acestep": by_the_app, "comfyui": by_comfyui, "diffusers": by_diffusers}
    for target, read in readers.items():
        assert error(read(make_decoder("xl"), Path(written[target]["adapter"])), expected, base) < 1e-4


def test_a_lokr_of_full_matrices_has_no_alpha_in_comfyui(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "lokr", LOKR_WHOLE)
    save(adapter, tmp_path / "run" / "final" / "adapter", AdapterMetadata())
    result = export_adapter(tmp_path / "run", "comfyui", out=tmp_path / "out")
    keys = load_file(result["adapter"]).keys()
    assert {key.rpartition(".")[2] for key in keys} == {"lokr_w1", "lokr_w2"}
    ours, found = make_decoder(), make_decoder()
    base = probe_output(ours)
    load_adapter(ours, tmp_path / "run")
    assert error(by_comfyui(found, Path(result["adapter"])), probe_output(ours), base) < 5e-3
    load_adapter(make_decoder(), Path(result["adapter"]))
