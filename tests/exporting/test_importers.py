"""Imported adapters of other programs give the same output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.adapters.configs import AdapterConfig
from acestep.adapters.files import load_adapter, load_weights_into, read_adapter, read_metadata
from acestep.adapters.metadata import AdapterMetadata
from acestep.core.errors import AdapterError, ModelMismatch
from acestep.exporting.importers import import_adapter
from acestep.exporting.package import export_adapter
from acestep.models.load import load_dit
from tests.adapters.small import KINDS, LOHA, LOKR, LORA, make_decoder, save, trained
from tests.adapters.test_loading import stock_lokr, stock_lora
from tests.exporting.comfyui import load_into
from tests.exporting.models import error, make_run, probe_output
from tests.exporting.test_merge import merge

Tensors = dict[str, Tensor]
FLAT = "layers_0_mlp_up_proj"


def with_keys_of(make: Callable[[str], str], tensors: Tensors, *, alpha: float | None) -> Tensors:
    """LoRA tensors with the keys of another program. With an alpha of twice the rank, lora_B is halved."""
    found: Tensors = {}
    for key, value in tensors.items():
        module = key.removeprefix("base_model.model.").rpartition(".lora_")[0]
        up = ".lora_B." in key
        found[f"{make(module)}.{'lora_up' if up else 'lora_down'}.weight"] = value / 2 if up and alpha else value
        if alpha:
            found[f"{make(module)}.alpha"] = torch.tensor(alpha)
    return found


FORMS: dict[str, Callable[[Tensors], Tensors]] = {
    "Side-Step for ComfyUI, native": lambda t: with_keys_of(lambda m: f"base_model.model.{m}", t, alpha=8.0),
    "Side-Step for ComfyUI, generic": lambda t: with_keys_of(lambda m: f"diffusion_model.decoder.{m}", t, alpha=8.0),
    "generic without alpha": lambda t: with_keys_of(lambda m: f"diffusion_model.decoder.{m}", t, alpha=None),
    "kohya": lambda t: with_keys_of(lambda m: f"lora_unet_decoder_{m.replace('.', '_')}", t, alpha=8.0),
    "LyCORIS": lambda t: with_keys_of(lambda m: f"lycoris_{m.replace('.', '_')}", t, alpha=8.0),
    "diffusers": lambda t: {
        key.replace("base_model.model", "transformer")
        .replace("q_proj", "to_q")
        .replace("k_proj", "to_k")
        .replace("v_proj", "to_v")
        .replace("o_proj", "to_out.0"): value
        for key, value in t.items()
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_a_lora_in_any_key_format_gives_the_same_output(tmp_path: Path, form: str) -> None:
    decoder = make_decoder()
    base = probe_output(decoder)
    adapter = trained(decoder, "lora", LORA)
    expected = probe_output(decoder)
    adapter.save(tmp_path / "ours", AdapterMetadata(), dtype=torch.float32)
    tensors = FORMS[form](load_file(tmp_path / "ours" / "adapter_model.safetensors"))
    save_file(tensors, tmp_path / "theirs.safetensors")
    result = import_adapter(tmp_path / "theirs.safetensors", out=tmp_path / "out", trigger_word="abc")
    assert result["kind"] == "lora"
    found = make_decoder()
    load_adapter(found, tmp_path / "out")
    assert error(probe_output(found), expected, base) < 1e-4
    assert read_metadata(tmp_path / "out").trigger_word == "abc"


@pytest.mark.parametrize("form", FORMS)
def test_other_commands_point_to_import_where_it_helps(tmp_path: Path, small_checkpoint: Path, form: str) -> None:
    adapter = trained(make_decoder(), "lora", LORA)
    adapter.save(tmp_path / "ours", AdapterMetadata(), dtype=torch.float32)
    file = tmp_path / "theirs.safetensors"
    save_file(FORMS[form](load_file(tmp_path / "ours" / "adapter_model.safetensors")), file)
    uses: list[Callable[[], object]] = [
        lambda: export_adapter(file, "comfyui", out=tmp_path / "out"),
        lambda: merge(small_checkpoint, file, tmp_path / "merged"),
        lambda: load_weights_into(trained(make_decoder(), "lora", LORA), file),
    ]
    for use in uses:
        with pytest.raises(AdapterError) as error:
            use()
        assert "python -m acestep import" in error.value.hint
    import_adapter(file, out=tmp_path / "out")


def test_a_lokr_without_settings_points_to_import(tmp_path: Path) -> None:
    save(trained(make_decoder(), "lokr", LOKR), tmp_path / "a")
    save_file(load_file(tmp_path / "a" / "lokr_weights.safetensors"), tmp_path / "bare.safetensors")
    with pytest.raises(AdapterError) as error:
        read_adapter(tmp_path / "bare.safetensors")
    assert "python -m acestep import" in error.value.hint
    import_adapter(tmp_path / "bare.safetensors", out=tmp_path / "out")


def test_no_error_points_to_import_where_it_does_not_help(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "lora", LORA)
    adapter.save(tmp_path / "a", AdapterMetadata())
    ours = load_file(tmp_path / "a" / "adapter_model.safetensors")
    kohya = FORMS["kohya"](ours)
    first = next(key for key in kohya if key.endswith("lora_down.weight"))
    broken: dict[str, Tensors] = {
        "half": {key: value for key, value in kohya.items() if key != first},
        "shape": {**kohya, first: kohya[first][:2].clone()},
        "other model": {key.replace("mlp_up_proj", "ff_net"): value for key, value in kohya.items()},
        "no scale": ours,
    }
    for name, tensors in broken.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
        with pytest.raises(AdapterError) as error:
            read_adapter(tmp_path / f"{name}.safetensors")
        assert "import" not in error.value.hint
        with pytest.raises(AdapterError):
            import_adapter(tmp_path / f"{name}.safetensors", out=tmp_path / "out")


@pytest.mark.parametrize("stock", [stock_lora, stock_lokr])
def test_ace_lora_trainer_folders_are_imported_with_their_trigger_word(
    tmp_path: Path, stock: Callable[..., Tensor]
) -> None:
    stock(tmp_path / "theirs")
    import_adapter(tmp_path / "theirs", out=tmp_path / "out")
    before, after = make_decoder(), make_decoder()
    base = probe_output(before)
    load_adapter(before, tmp_path / "theirs" / "adapter")
    load_adapter(after, tmp_path / "out")
    assert error(probe_output(after), probe_output(before), base) < 1e-4
    assert read_metadata(tmp_path / "out").trigger_word == "old"
    assert read_metadata(tmp_path / "out").program.startswith("acestep ")


@pytest.mark.parametrize(("kind", "config"), [KINDS[1], KINDS[2], ("loha", LOHA)])
def test_lokr_and_loha_files_for_comfyui_are_imported_as_their_own_kind(
    tmp_path: Path, kind: str, config: AdapterConfig
) -> None:
    decoder = make_decoder()
    base = probe_output(decoder)
    adapter = trained(decoder, kind, config)
    expected = probe_output(decoder)
    save(adapter, tmp_path / "run" / "final" / "adapter")
    file = Path(export_adapter(tmp_path / "run", "comfyui", out=tmp_path / "comfy")["adapter"])
    save_file({_generic(key): value for key, value in load_file(file).items()}, tmp_path / "bare.safetensors")
    assert load_into(make_decoder(), tmp_path / "bare.safetensors") == []
    result = import_adapter(tmp_path / "bare.safetensors", out=tmp_path / "out")
    assert result["kind"] == kind
    found = make_decoder()
    load_adapter(found, tmp_path / "out")
    assert error(probe_output(found), expected, base) < 1e-4


def _generic(key: str) -> str:
    """The generic key of other trainers, which does not name the adapter kind."""
    return key.replace("base_model.model.", "diffusion_model.decoder.")


def test_full_weight_differences_are_imported_as_a_lora_with_a_residual(tmp_path: Path, small_checkpoint: Path) -> None:
    expected = make_run(small_checkpoint, tmp_path / "run", "dora", "alpha = r")
    options = {"checkpoint": small_checkpoint}
    file = export_adapter(tmp_path / "run", "comfyui", out=tmp_path / "comfy", **options)["adapter"]  # type: ignore[arg-type]
    result = import_adapter(Path(file), out=tmp_path / "out", checkpoint=small_checkpoint)
    decoder = load_dit(small_checkpoint)
    base = probe_output(decoder)
    load_adapter(decoder, tmp_path / "out")
    assert result["form"] == "lora"
    assert error(probe_output(decoder), expected, base) < 1e-3
    small = import_adapter(Path(file), out=tmp_path / "small", rank=2)
    assert small["residual"] > 0.1


def test_the_base_model_can_be_set_and_is_verified(tmp_path: Path, small_checkpoint: Path, tiny_root: Path) -> None:
    make_run(small_checkpoint, tmp_path / "run", "lora", "alpha = r")
    file = tmp_path / "run" / "final" / "adapter" / "adapter_model.safetensors"
    save_file(FORMS["kohya"](load_file(file)), tmp_path / "theirs.safetensors")
    import_adapter(tmp_path / "theirs.safetensors", out=tmp_path / "out", checkpoint=small_checkpoint)
    card = read_metadata(tmp_path / "out")
    assert (card.base_model, card.family, card.variant) == ("acestep-v15-small", "2b", "turbo")
    other = tiny_root / "acestep-v15-tiny-xl-base"
    with pytest.raises(ModelMismatch, match="xl family"):
        import_adapter(tmp_path / "theirs.safetensors", out=tmp_path / "xl", checkpoint=other)


def test_peft_weights_without_a_config_are_rejected_because_their_scale_is_unknown(tmp_path: Path) -> None:
    stock_lora(tmp_path / "theirs")
    (tmp_path / "theirs" / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match="its scale is unknown"):
        import_adapter(tmp_path / "theirs", out=tmp_path / "out")


def test_a_comfyui_dora_is_rejected_because_programs_compute_it_differently(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "lora", LORA)
    adapter.save(tmp_path / "a", AdapterMetadata())
    tensors = FORMS["Side-Step for ComfyUI, native"](load_file(tmp_path / "a" / "adapter_model.safetensors"))
    tensors["base_model.model.layers.0.mlp.up_proj.dora_scale"] = torch.ones(96)
    save_file(tensors, tmp_path / "theirs.safetensors")
    with pytest.raises(AdapterError):
        import_adapter(tmp_path / "theirs.safetensors", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lokr_that_no_config_produces_is_imported_as_a_lora(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    w1, w2 = (torch.randn(*size, generator=generator) for size in ((3, 4), (32, 16)))
    save_file({f"lycoris_{FLAT}.lokr_w1": w1, f"lycoris_{FLAT}.lokr_w2": w2}, tmp_path / "odd.safetensors")
    result = import_adapter(tmp_path / "odd.safetensors", out=tmp_path / "out")
    parts = read_adapter(tmp_path / "out").modules["layers.0.mlp.up_proj"]
    assert result["form"] == "lora"
    torch.testing.assert_close(parts["lora_B"] @ parts["lora_A"], torch.kron(w1, w2), atol=1e-4, rtol=1e-4)


def test_the_config_of_a_lokr_is_recovered_from_its_shapes(tmp_path: Path) -> None:
    save(trained(make_decoder(), "lokr", LOKR), tmp_path / "a")
    tensors = load_file(tmp_path / "a" / "lokr_weights.safetensors")
    save_file(tensors, tmp_path / "bare.safetensors")
    import_adapter(tmp_path / "bare.safetensors", out=tmp_path / "out")
    config = read_adapter(tmp_path / "out").config.model_dump()
    assert (config["linear_dim"], config["factor"]) == (LOKR.linear_dim, LOKR.factor)
