"""Other programs, or the libraries they use, load the saved adapters with the trained weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin
from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from acestep.adapters.base import Adapter
from acestep.adapters.configs import AdapterConfig, LoKRConfig, LoRAConfig
from tests.adapters.small import (
    DORA,
    DORA_PISSA,
    LOHA,
    LOKR_DECOMPOSED,
    PISSA,
    RSLORA,
    answer,
    make_decoder,
    relative,
    save,
    trained,
    with_original_names,
)
from tests.adapters.test_state import deltas

ALPHA_IS_RANK = LoRAConfig(r=4, alpha=4, dropout=0.0)
ALPHA_IS_TWICE = LoRAConfig(r=4, alpha=8, dropout=0.0)
LORAS: list[tuple[str, AdapterConfig]] = [("lora", x) for x in (ALPHA_IS_RANK, ALPHA_IS_TWICE, RSLORA, PISSA)]
DORAS: list[tuple[str, AdapterConfig]] = [("dora", DORA), ("dora", DORA_PISSA)]
PLAIN_LOKRS = [
    LoKRConfig(linear_dim=2, linear_alpha=2.0, factor=4),
    LoKRConfig(linear_dim=2, linear_alpha=4.0, factor=4),
    LoKRConfig(linear_dim=1, linear_alpha=2.0, factor=4, decompose_both=True),
    LoKRConfig(),
]
UNBALANCED = LoKRConfig(linear_dim=2, linear_alpha=4.0, factor=4, unbalanced_factorization=True)
precisions = pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])


@pytest.mark.parametrize(("kind", "config"), [*LORAS, *DORAS, ("loha", LOHA)])
@precisions
def test_peft_loads_the_trained_adapter(
    tmp_path: Path, kind: str, config: AdapterConfig, dtype: torch.dtype, error: float
) -> None:
    app = with_original_names(make_decoder())
    base = answer(app)
    adapter = trained(make_decoder(), kind, config)
    loaded = PeftModel.from_pretrained(app, save(adapter, tmp_path / "a", dtype=dtype))
    assert relative(answer(loaded), answer(adapter.network), base) < error


@pytest.mark.parametrize(("kind", "config"), [*LORAS, *DORAS])
@precisions
def test_diffusers_loads_the_trained_adapter(
    tmp_path: Path, kind: str, config: AdapterConfig, dtype: torch.dtype, error: float
) -> None:
    pipeline = make_decoder()
    base = answer(pipeline)
    adapter = trained(make_decoder(), kind, config)
    folder = save(adapter, tmp_path / "a", dtype=dtype)
    state, metadata = AceStepLoraLoaderMixin.lora_state_dict(str(folder), return_lora_metadata=True)
    AceStepLoraLoaderMixin.load_lora_into_transformer(state, pipeline, metadata=metadata)
    assert relative(answer(pipeline), answer(adapter.network), base) < error


@pytest.mark.parametrize("config", [*PLAIN_LOKRS, LOKR_DECOMPOSED])
@precisions
def test_lycoris_loads_the_trained_lokr(tmp_path: Path, config: LoKRConfig, dtype: torch.dtype, error: float) -> None:
    app = with_original_names(make_decoder())
    base = answer(app)
    adapter = trained(make_decoder(), "lokr", config)
    file = save(adapter, tmp_path / "a", dtype=dtype) / "lokr_weights.safetensors"
    with torch.no_grad():
        network, _ = create_lycoris_from_weights(1.0, str(file), app)
    network.apply_to()
    assert len(network.loras) == 22
    assert relative(answer(app), answer(adapter.network), base) < error


@pytest.mark.parametrize("config", [*PLAIN_LOKRS, LOKR_DECOMPOSED, UNBALANCED])
@pytest.mark.usefixtures("lycoris_settings")
def test_the_ace_step_app_builds_the_trained_lokr_from_its_metadata(tmp_path: Path, config: LoKRConfig) -> None:
    app = with_original_names(make_decoder())
    base = answer(app)
    adapter = trained(make_decoder(), "lokr", config)
    file = save(adapter, tmp_path / "a") / "lokr_weights.safetensors"
    with safe_open(file, framework="pt") as opened:
        settings = json.loads(opened.metadata()["lokr_config"])
    names = [rf".*{name}" for name in settings["target_modules"]]
    network = _lycoris(app, {"target_name": names}, settings)
    network.apply_to()
    assert network.load_weights(str(file)).get("unexpected keys", []) == []
    assert relative(answer(app), answer(adapter.network), base) < 1e-4


@pytest.mark.parametrize(("kind", "config"), [*LORAS, ("loha", LOHA)])
def test_comfyui_computes_the_trained_update(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    adapter = trained(make_decoder(), kind, config)
    _same(_comfyui(save(adapter, tmp_path / "a") / "adapter_model.safetensors"), adapter)


@pytest.mark.parametrize("config", [*PLAIN_LOKRS, UNBALANCED])
def test_comfyui_computes_the_trained_lokr(tmp_path: Path, config: LoKRConfig) -> None:
    adapter = trained(make_decoder(), "lokr", config)
    _same(_comfyui(save(adapter, tmp_path / "a") / "lokr_weights.safetensors"), adapter)


def _lycoris(model: Any, preset: dict[str, Any], settings: dict[str, Any]) -> LycorisNetwork:
    """As the ACE-Step app calls it: ``create_lycoris`` applies the preset "full" first."""
    keys = ("linear_dim", "linear_alpha", "factor", "decompose_both", "use_tucker")
    LycorisNetwork.apply_preset(preset)
    decomposed = settings.get("weight_decompose", False)
    unbalanced = settings.get("unbalanced_factorization", False)
    return create_lycoris(
        model,
        1.0,
        algo="lokr",
        dora_wd=decomposed,
        unbalanced_factorization=unbalanced,
        **{key: settings[key] for key in keys},
    )


def _comfyui(file: Path) -> dict[str, Tensor]:
    """Weight updates by ComfyUI's rules: original module name -> update. Every key must be used."""
    names = [name.removesuffix(".weight") for name in with_original_names(make_decoder()).state_dict()]
    tensors, found = load_file(file), {}
    for name in names:
        peft, lokr = f"base_model.model.{name}", f"lycoris_{name.replace('.', '_')}"
        if f"{peft}.lora_B.weight" in tensors:
            found[name] = tensors.pop(f"{peft}.lora_B.weight") @ tensors.pop(f"{peft}.lora_A.weight")
        elif f"{peft}.hada_w1_a" in tensors:
            w1, w2 = (tensors.pop(f"{peft}.hada_{w}_a") @ tensors.pop(f"{peft}.hada_{w}_b") for w in ("w1", "w2"))
            found[name] = w1 * w2
        elif f"{lokr}.alpha" in tensors:
            scale, alpha, halves = 1.0, tensors.pop(f"{lokr}.alpha"), []
            for half in ("lokr_w1", "lokr_w2"):
                if f"{lokr}.{half}" in tensors:
                    halves.append(tensors.pop(f"{lokr}.{half}"))
                else:
                    b = tensors.pop(f"{lokr}.{half}_b")
                    halves.append(tensors.pop(f"{lokr}.{half}_a") @ b)
                    scale = float(alpha) / b.shape[0]
            found[name] = torch.kron(*halves) * scale
    assert tensors == {}, "keys that ComfyUI would not load"
    return found


def _same(found: dict[str, Tensor], adapter: Adapter) -> None:
    wanted = deltas(adapter)
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        torch.testing.assert_close(found[name], delta)
