"""LoKr files of other programs are merged, exported and imported with the weights that LyCORIS computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from acestep.adapters.files import load_adapter, read_adapter
from acestep.adapters.lokr_file import PREFIX
from acestep.adapters.targets import module_from_underscores
from acestep.exporting.importers import import_adapter
from acestep.exporting.package import export_adapter
from acestep.models.load import load_dit
from tests.adapters.lycoris_reference import apply_lokr, merged_weights
from tests.adapters.test_foreign_adapters import CASES, FILE, LOKRS
from tests.exporting.models import error, probe_output
from tests.exporting.readers import by_comfyui, by_diffusers
from tests.exporting.test_merge import merge


def lycoris_output(checkpoint: Path, file: Path) -> tuple[Tensor, Tensor]:
    """The output of the base model, and with the adapter."""
    base, theirs = load_dit(checkpoint), load_dit(checkpoint)
    apply_lokr(theirs, file)
    return probe_output(base), probe_output(theirs)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("case", LOKRS)
def test_the_merged_weights_are_those_of_lycoris(
    tmp_path: Path, tiny_checkpoint: Path, case: str, strength: float
) -> None:
    result = merge(tiny_checkpoint, CASES / case, tmp_path / "merged", strength=strength)
    merged, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "merged", tiny_checkpoint))
    expected = merged_weights(apply_lokr(load_dit(tiny_checkpoint), CASES / case / FILE, strength))
    assert result["merged"] == len(expected)
    for flat, weight in expected.items():
        key = f"decoder.{module_from_underscores(flat.removeprefix(PREFIX))}.weight"
        assert error(merged[key].float(), weight.view(merged[key].shape), before[key].float()) < 1e-5


@pytest.mark.parametrize("case", LOKRS)
def test_the_export_for_the_app_gives_the_output_of_lycoris(tmp_path: Path, tiny_checkpoint: Path, case: str) -> None:
    base, expected = lycoris_output(tiny_checkpoint, CASES / case / FILE)
    result = export_adapter(CASES / case, "acestep", out=tmp_path / "out", checkpoint=tiny_checkpoint)
    app = load_dit(tiny_checkpoint)
    apply_lokr(app, tmp_path / "out" / FILE)
    assert (result["kind"], result["form"]) == ("lokr", "lokr")
    assert error(probe_output(app), expected, base) < 1e-5
    assert result["output_error"] < 1e-5


@pytest.mark.parametrize("case", LOKRS)
def test_the_export_for_comfyui_gives_the_output_of_lycoris(tmp_path: Path, tiny_checkpoint: Path, case: str) -> None:
    base, expected = lycoris_output(tiny_checkpoint, CASES / case / FILE)
    result = export_adapter(CASES / case, "comfyui", out=tmp_path / "out", checkpoint=tiny_checkpoint)
    found = by_comfyui(load_dit(tiny_checkpoint), Path(result["adapter"]))
    assert error(found, expected, base) < 1e-5


@pytest.mark.parametrize("case", ["lokrwd", "lokrunbal"])
def test_the_export_for_diffusers_gives_the_output_of_lycoris(tmp_path: Path, tiny_checkpoint: Path, case: str) -> None:
    base, expected = lycoris_output(tiny_checkpoint, CASES / case / FILE)
    export_adapter(CASES / case, "diffusers", out=tmp_path / "out", checkpoint=tiny_checkpoint)
    assert error(by_diffusers(load_dit(tiny_checkpoint), tmp_path / "out"), expected, base) < 0.02


@pytest.mark.parametrize("case", LOKRS)
def test_the_import_gives_the_output_of_lycoris(tmp_path: Path, tiny_checkpoint: Path, case: str) -> None:
    base, expected = lycoris_output(tiny_checkpoint, CASES / case / FILE)
    result = import_adapter(CASES / case, out=tmp_path / "out", checkpoint=tiny_checkpoint)
    ours = load_dit(tiny_checkpoint)
    load_adapter(ours, tmp_path / "out")
    assert result["form"] == "lokr"
    assert error(probe_output(ours), expected, base) < 1e-5


def test_a_strength_is_exported_by_its_rule(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The strength of magnitudes is not linear: it is exported as a LoRA."""
    theirs = load_dit(tiny_checkpoint)
    base = probe_output(theirs)
    apply_lokr(theirs, CASES / "lokrwd" / FILE, 0.5)
    result = export_adapter(CASES / "lokrwd", "acestep", out=tmp_path / "out", checkpoint=tiny_checkpoint, strength=0.5)
    ours = load_dit(tiny_checkpoint)
    load_adapter(ours, tmp_path / "out")
    assert result["form"] == "lora"
    assert error(probe_output(ours), probe_output(theirs), base) < 0.02


def test_magnitudes_stay_fp32_in_a_bf16_file(tmp_path: Path, tiny_checkpoint: Path) -> None:
    export_adapter(CASES / "lokrwd", "acestep", out=tmp_path / "out", dtype="bf16", checkpoint=tiny_checkpoint)
    before, after = read_adapter(CASES / "lokrwd").weights, read_adapter(tmp_path / "out").weights
    for key, value in before.items():
        assert torch.equal(after[key], value) == key.endswith(".dora_scale")
