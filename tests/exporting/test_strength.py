"""The strength of a DoRA has the effect that it has in PEFT, which the ACE-Step app and diffusers use."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_pipeline import AceStepLoraLoaderMixin
from peft import PeftModel
from torch import Tensor

from acestep.adapters.base import Adapter
from acestep.adapters.configs import ADAPTERS
from acestep.adapters.files import load_adapter, read_adapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.core.jobs import Context
from acestep.exporting.ab_evaluation import relative_delta_norms
from acestep.exporting.configs import MergeJob
from acestep.exporting.delta import BaseWeights
from acestep.exporting.merge import merge_job
from acestep.exporting.package import export_adapter
from acestep.exporting.source import ExportSource
from acestep.exporting.targets import TARGETS
from acestep.handler import AceStepHandler
from acestep.models.checkpoint import find_checkpoint
from acestep.models.load import load_dit
from tests.adapters.small import BASES, DORA, LOKR_DECOMPOSED, answer, make_base, save, trained, with_original_names
from tests.exporting.models import SETTINGS, error, make_run, probe_output, train
from tests.exporting.readers import READERS

STRENGTHS = (0.3, 0.5, 1.0, 1.5, -0.5)
every_setting = pytest.mark.parametrize("setting", [*SETTINGS["dora"]])


@torch.no_grad()
def by_peft(checkpoint: Path, folder: Path, strength: float) -> Tensor:
    """The output of PEFT's own layers with their scale multiplied by ``strength``."""
    model = PeftModel.from_pretrained(with_original_names(load_dit(checkpoint)), folder)
    layers = [module for module in model.modules() if hasattr(module, "set_scale")]
    assert len(layers) == 22
    for layer in layers:
        layer.set_scale("default", strength)
    return probe_output(model)


def trained_dora(checkpoint: Path, folder: Path, setting: str = "alpha = 2r") -> Adapter:
    adapter = train(load_dit(checkpoint), "dora", setting)
    metadata = AdapterMetadata(base_model=checkpoint.name, family="2b", variant="turbo")
    save(adapter, folder / "final" / "adapter", metadata, torch.float32)
    return adapter


@every_setting
def test_a_dora_at_any_strength_gives_the_output_of_peft(small_checkpoint: Path, tmp_path: Path, setting: str) -> None:
    adapter = trained_dora(small_checkpoint, tmp_path, setting)
    base = probe_output(load_dit(small_checkpoint))
    decoder = load_dit(small_checkpoint)
    loaded = load_adapter(decoder, tmp_path)
    for strength in STRENGTHS:
        expected = by_peft(small_checkpoint, tmp_path / "final" / "adapter", strength)
        for each, network in ((adapter, adapter.network), (loaded, decoder)):
            each.set_strength(strength)
            assert error(probe_output(network), expected, base) < 1e-5, strength
    adapter.set_strength(0.0)
    assert torch.equal(probe_output(adapter.network), base)


@torch.no_grad()
def test_a_dora_at_half_strength_gives_the_output_of_diffusers(small_checkpoint: Path, tmp_path: Path) -> None:
    adapter = trained_dora(small_checkpoint, tmp_path)
    adapter.set_strength(0.5)
    export_adapter(tmp_path, "diffusers", out=tmp_path / "out")
    decoder = load_dit(small_checkpoint)
    base = probe_output(decoder)
    state = AceStepLoraLoaderMixin.lora_state_dict(str(tmp_path / "out"))
    AceStepLoraLoaderMixin.load_lora_into_transformer(state, decoder, adapter_name="style")
    decoder.set_adapters(["style"], [0.5])
    assert error(probe_output(decoder), probe_output(adapter.network), base) < 1e-5


def test_merge_and_export_and_generation_have_the_effect_of_the_strength(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    trained_dora(small_checkpoint, tmp_path / "run")
    base = probe_output(load_dit(small_checkpoint))
    expected = by_peft(small_checkpoint, tmp_path / "run" / "final" / "adapter", 0.5)
    fault = partial(error, expected=expected, base=base)
    config = MergeJob(checkpoint=str(small_checkpoint), adapter=tmp_path / "run", out=tmp_path / "merged", strength=0.5)
    (tmp_path / "job").mkdir()
    merge_job(config, Context(tmp_path / "job"))
    assert fault(probe_output(load_dit(tmp_path / "merged"))) < 1e-4
    options = {"checkpoint": small_checkpoint, "strength": 0.5}
    exported = export_adapter(tmp_path / "run", "all", out=tmp_path / "out", **options)["targets"]  # type: ignore[arg-type]
    for target, read in READERS.items():
        assert fault(read(load_dit(small_checkpoint), Path(exported[target]["adapter"]))) < 1e-4, target
        assert exported[target]["output_error"] < 1e-4
    assert exported["acestep"]["form"] == exported["diffusers"]["form"] == "dora"


def test_the_handler_and_the_comparison_with_the_base_model_have_the_same_strength(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    trained_dora(tiny_checkpoint, tmp_path)
    folder = tmp_path / "final" / "adapter"
    model = PeftModel.from_pretrained(with_original_names(load_dit(tiny_checkpoint)), folder)
    handler = AceStepHandler(str(tiny_checkpoint), device="cpu", dtype="float32")
    decoder = handler.ensure_models_loaded().dit
    base = probe_output(decoder)
    for strength in (0.5, 1.5):
        for module in model.modules():
            if hasattr(module, "set_scale"):
                module.set_scale("default", strength)
        expected = probe_output(model)
        handler.load_adapter(folder, strength=strength)
        assert error(probe_output(decoder), expected, base) < 1e-5
    handler.set_strength(0.0)
    assert torch.equal(probe_output(decoder), base)
    stored, weights = read_adapter(folder), BaseWeights(find_checkpoint(tiny_checkpoint))
    norms = relative_delta_norms(ExportSource(stored, weights, strength=0.5), weights)
    name = "layers.0.mlp.up_proj"
    parts = stored.modules[name]
    weight = weights[name] + 0.5 * parts["lora_B"] @ parts["lora_A"]
    update = weight * (parts["lora_magnitude_vector"] / weight.norm(dim=1))[:, None] - weights[name]
    assert norms[name] == pytest.approx(float(update.norm() / weights[name].norm()), rel=1e-4)


WORDS = {
    ("lora", "acestep"): "multiplies the weight change",
    ("lora", "comfyui"): "multiplies the weight change",
    ("lora", "diffusers"): "multiplies the weight change",
    ("dora", "acestep"): "turn the adapter off for the base model",
    ("dora", "comfyui"): "interpolates linearly",
    ("dora", "diffusers"): "call `disable_lora()` for the base model",
    ("loha", "acestep"): "The strength has no effect",
    ("loha", "comfyui"): "multiplies the weight change",
    ("loha", "diffusers"): "multiplies the weight change",
    ("lokr", "acestep"): "multiplies the weight change",
    ("lokr", "comfyui"): "multiplies the weight change",
    ("lokr", "diffusers"): "multiplies the weight change",
}


@pytest.mark.parametrize("kind", ADAPTERS.names)
def test_the_model_card_describes_the_strength_of_each_program(
    small_checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    make_run(small_checkpoint, tmp_path / "run", kind, next(iter(SETTINGS[kind])))
    written = export_adapter(tmp_path / "run", "all", out=tmp_path / "out", checkpoint=small_checkpoint)["targets"]
    for target in TARGETS.names:
        assert target in written
        [card] = (tmp_path / "out" / target).rglob("README.md")
        assert WORDS[kind, target] in card.read_text(encoding="utf-8"), target


def test_the_model_card_describes_the_strength_of_a_lokr_with_magnitudes(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    adapter = trained(load_dit(small_checkpoint), "lokr", LOKR_DECOMPOSED)
    save(adapter, tmp_path / "run" / "final" / "adapter", AdapterMetadata(family="2b"), torch.float32)
    written = export_adapter(tmp_path / "run", "all", out=tmp_path / "out", checkpoint=small_checkpoint)["targets"]
    cards = {target: next((tmp_path / "out" / target).rglob("README.md")).read_text("utf-8") for target in written}
    assert "unload the adapter for the base model" in cards["acestep"]
    assert "interpolates linearly" in cards["comfyui"]


@pytest.mark.parametrize("base", BASES)
def test_half_the_strength_is_half_of_lora_b_on_any_base_model(base: str) -> None:
    adapter, dtype = trained(make_base(base), "dora", DORA), torch.bfloat16 if base == "bf16" else torch.float32
    adapter.set_strength(0.5)
    found = answer(adapter.network, dtype)
    adapter.set_strength(1.0)
    adapter.load_state({key: value / 2 if "lora_B" in key else value for key, value in adapter.state().items()})
    torch.testing.assert_close(found, answer(adapter.network, dtype))
