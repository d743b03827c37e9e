"""Adapters on layers outside of attention give the same output in diffusers, loaded with its own loader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.adapters.configs import AdapterConfig
from acestep.adapters.files import load_adapter, read_adapter
from acestep.core.errors import AdapterError
from acestep.exporting.importers import import_adapter
from acestep.exporting.package import export_adapter
from acestep.exporting.targets import diffusers
from acestep.models.load import load_dit
from tests.adapters.small import DORA, LORA, make_decoder, save, trained, with_original_names
from tests.adapters.test_loading import randomise, stock_lokr, stock_lora
from tests.exporting.models import error, make_run, probe_output
from tests.exporting.readers import by_comfyui, by_diffusers, by_the_app

FOREIGN = Path(__file__).parent.parent / "fixtures" / "foreign_adapters"


def output(path: Path) -> Tensor:
    """The output of the small decoder with the adapter."""
    decoder = make_decoder()
    load_adapter(decoder, path)
    return probe_output(decoder)


def stock_loha(folder: Path) -> None:
    """A LoHa of Side-Step on every linear and convolution layer."""
    model = with_original_names(make_decoder())
    LycorisNetwork.apply_preset({"target_name": [r".*(q_proj|k_proj|v_proj|o_proj)$"]})
    network = create_lycoris(model, 1.0, algo="loha", linear_dim=2, linear_alpha=4.0)
    network.apply_to()
    randomise(network)
    folder.mkdir(parents=True)
    network.save_weights(str(folder / "loha_weights.safetensors"), torch.float32, {"loha_config": "{}"})


def only(part: str, file: Path) -> None:
    """Keep the modules of an adapter file whose name contains ``part``."""
    save_file({key: value for key, value in load_file(file).items() if part in key}, file)


def test_a_lokr_of_side_step_keeps_its_output(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """52 modules, among them the first convolution, with full factors: the LoRA needs a rank of up to 160."""
    adapter = FOREIGN / "sidestep" / "lokr"
    result = export_adapter(adapter, "diffusers", out=tmp_path / "out", checkpoint=tiny_checkpoint)
    base = probe_output(load_dit(tiny_checkpoint))
    expected = by_the_app(load_dit(tiny_checkpoint), adapter)
    found = by_diffusers(load_dit(tiny_checkpoint), tmp_path / "out")
    assert error(found, expected, base) < 1e-4
    assert result["output_error"] < 1e-4
    assert (result["modules"], result["form"], result["notes"]) == (52, "lora", [])


@pytest.mark.usefixtures("lycoris_settings")
@pytest.mark.parametrize("make", [stock_lokr, stock_loha])
def test_an_adapter_on_every_layer_keeps_its_output(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    make(tmp_path / "run")
    result = export_adapter(tmp_path / "run", "diffusers", out=tmp_path / "out")
    found = by_diffusers(make_decoder(), tmp_path / "out")
    assert error(found, output(tmp_path / "run"), probe_output(make_decoder())) < 1e-4
    assert result["modules"] == 30
    keys = load_file(tmp_path / "out" / "pytorch_lora_weights.safetensors")
    assert keys["transformer.proj_in_conv.lora_A.weight"].shape[1:] == (192, 2)
    assert keys["transformer.proj_in_conv.lora_B.weight"].shape[2:] == (1,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("part", [".mlp.", ".v_proj.", ".mlp.down_proj."])
@pytest.mark.parametrize(("kind", "config"), [("lora", LORA), ("dora", DORA)])
def test_an_adapter_without_queries_and_keys_is_exact(
    tmp_path: Path, kind: str, config: AdapterConfig, part: str, dtype: torch.dtype
) -> None:
    file = save(trained(make_decoder(), kind, config), tmp_path / "a", dtype=dtype) / "adapter_model.safetensors"
    only(part, file)
    export_adapter(tmp_path / "a", "diffusers", out=tmp_path / "out")
    found = by_diffusers(make_decoder(), tmp_path / "out")
    assert error(found, output(file), probe_output(make_decoder())) < 1e-5
    assert all(key.startswith("transformer.") for key in load_file(tmp_path / "out" / diffusers.FILE))


@pytest.mark.parametrize("module", ["condition_embedder", "time_embed.linear_1", "time_embed_r.time_proj"])
def test_an_adapter_on_an_embedding_only_is_exact(tmp_path: Path, module: str) -> None:
    stock_lora(tmp_path / "run", target_modules=[module])
    export_adapter(tmp_path / "run", "diffusers", out=tmp_path / "out")
    found = by_diffusers(make_decoder(), tmp_path / "out")
    assert error(found, output(tmp_path / "run"), probe_output(make_decoder())) < 1e-5


@pytest.mark.usefixtures("lycoris_settings")
def test_the_lora_of_a_convolution_is_exact_in_every_program(tmp_path: Path) -> None:
    stock_lokr(tmp_path / "run")
    base, expected = probe_output(make_decoder()), output(tmp_path / "run")
    written = export_adapter(tmp_path / "run", "all", out=tmp_path / "out", rank=64)["targets"]
    for target, read in {"acestep": by_the_app, "comfyui": by_comfyui, "diffusers": by_diffusers}.items():
        found = read(make_decoder(), Path(written[target]["adapter"]))
        assert error(found, expected, base) < 1e-4, target
        assert (written[target]["form"], written[target]["modules"]) == ("lora", 30)
    assert error(output(Path(written["acestep"]["adapter"])), expected, base) < 1e-4
    import_adapter(Path(written["diffusers"]["adapter"]), out=tmp_path / "again")
    assert error(output(tmp_path / "again"), expected, base) < 1e-4
    assert read_adapter(tmp_path / "again").modules["proj_in.1"]["lora_A"].shape == (64, 192, 2)


def test_a_lora_approximation_reports_how_to_reduce_its_error(tmp_path: Path, small_checkpoint: Path) -> None:
    """A higher rank does reduce the error; an error from rounding to bf16 is not attributed to the rank."""
    make_run(small_checkpoint, tmp_path / "run", "lokr", "whole", torch.bfloat16)
    [note] = export_adapter(tmp_path / "run", "diffusers", out=tmp_path / "small", rank=8)["notes"]
    assert "the LoRA of rank 8 has a relative error of" in note
    larger = export_adapter(tmp_path / "run", "diffusers", out=tmp_path / "larger", rank=32)
    full = export_adapter(tmp_path / "run", "diffusers", out=tmp_path / "full")
    assert "rank 32" in larger["notes"][0]
    assert full["residual"] < larger["residual"]
    assert 1e-4 < full["residual"] < 1e-2
    assert full["notes"] == []


def test_the_transposed_convolution_is_rejected_with_the_reason(tmp_path: Path) -> None:
    """Neither PEFT nor LyCORIS has an adapter for it."""
    stock_lora(tmp_path / "run", target_modules=["q_proj"])
    file = tmp_path / "run" / "adapter" / "adapter_model.safetensors"
    tensors = {f"base_model.model.proj_out.1.lora_{x}.weight": torch.ones(4, 4, 1) for x in "AB"}
    save_file({**load_file(file), **tensors}, file)
    with pytest.raises(AdapterError, match=r"proj_out\.1"):
        export_adapter(tmp_path / "run", "diffusers", out=tmp_path / "out")
