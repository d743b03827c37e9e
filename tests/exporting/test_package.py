"""An export is written completely and verified, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from acestep.adapters.configs import AdapterConfig
from acestep.adapters.files import inject, read_adapter, read_metadata
from acestep.adapters.metadata import AdapterMetadata
from acestep.core.errors import AdapterError, ModelMismatch, StorageError, UnknownName
from acestep.exporting.package import export_adapter
from acestep.exporting.targets import comfyui
from tests.adapters.small import (
    CARD,
    EVERY,
    KINDS,
    LORA,
    answer,
    make_decoder,
    relative,
    save,
    trained,
    with_original_names,
)
from tests.exporting.models import make_run, write_checkpoint

every_kind = pytest.mark.parametrize(("kind", "config"), EVERY)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def metadata(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as opened:
        return dict(opened.metadata())


@every_kind
def test_an_adapter_is_exported_to_the_app_without_changes(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    folder = save(trained(make_decoder(), kind, config), tmp_path / "run" / "final" / "adapter")
    result = export_adapter(tmp_path / "run", to="acestep", out=tmp_path / "my song")
    assert result["adapter"] == str(tmp_path / "my song")
    assert result["kind"] == result["form"] == kind
    assert result["modules"] == 22
    assert 0 < result["delta_norm"][0] <= result["delta_norm"][1]
    assert result["trigger_word"] == "zyx"
    assert json.loads(json.dumps(result)) == result
    before, after = read_adapter(folder), read_adapter(tmp_path / "my song")
    assert all(torch.equal(after.weights[key], value) for key, value in before.weights.items())
    assert after.weights.keys() == before.weights.keys()


def test_exports_of_the_same_adapter_are_byte_identical(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "run" / "final" / "adapter")
    for place in ("one", "other"):
        export_adapter(folder, "all", out=tmp_path / place)
    files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(files) == 7
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes() for file in files)


def test_a_lora_is_the_same_file_for_every_program(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "run" / "final" / "adapter")
    written = export_adapter(folder, "all", out=tmp_path / "out")["targets"]
    folders = {to: Path(each["adapter"]) for to, each in written.items()}
    assert folders["acestep"].name == "run"
    assert folders["comfyui"].name == "run.safetensors"
    app = (folders["acestep"] / "adapter_model.safetensors").read_bytes()
    assert folders["comfyui"].read_bytes() == app
    [file] = folders["diffusers"].glob("*.safetensors")
    assert file.read_bytes() == app
    assert sorted(path.name for path in folders["diffusers"].iterdir()) == ["README.md", file.name]


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("my song/final/adapter", "my song"),
        ("my song/best/adapter", "my song"),
        ("my song/checkpoints/epoch_30/adapter", "my song-epoch_30"),
        ("my song/checkpoints/epoch_2_step_40/adapter", "my song-epoch_2_step_40"),
        ("elsewhere", "elsewhere"),
    ],
)
def test_an_export_is_named_after_its_run(tmp_path: Path, place: str, name: str) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / place)
    result = export_adapter(folder, "all", out=tmp_path / "out")
    assert Path(result["targets"]["acestep"]["adapter"]).name == name


def test_an_export_of_a_single_file_is_named_after_the_file(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    (tmp_path / "downloads").mkdir()
    file = (folder / "adapter_model.safetensors").rename(tmp_path / "downloads" / "jazz.safetensors")
    result = export_adapter(file, "all", out=tmp_path / "out")
    assert Path(result["targets"]["comfyui"]["adapter"]).name == "jazz.safetensors"


def test_the_best_adapter_of_a_run_is_exported_if_there_is_no_final_one(tmp_path: Path) -> None:
    save(trained(make_decoder(), "lora", LORA), tmp_path / "run" / "checkpoints" / "epoch_30" / "adapter")
    best = save(trained(make_decoder(), "lora", LORA), tmp_path / "run" / "best" / "adapter")
    result = export_adapter(tmp_path / "run", out=tmp_path / "out")
    assert result["source"] == str(best / "adapter_model.safetensors")


def test_the_scale_of_another_trainers_lora_is_multiplied_into_its_weights(tmp_path: Path) -> None:
    adapter = trained(make_decoder(), "lora", LORA)
    base, folder = answer(with_original_names(make_decoder())), save(adapter, tmp_path / "theirs")
    weights = load_file(folder / "adapter_model.safetensors")
    half = {key: value / 2 if "lora_B" in key else value for key, value in weights.items()}
    save_file(half, folder / "adapter_model.safetensors")
    settings = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 8}))
    export_adapter(folder, out=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["lora_alpha"] == 4
    app = PeftModel.from_pretrained(with_original_names(make_decoder()), tmp_path / "out")
    assert relative(answer(app), answer(adapter.network), base) < 1e-5
    config = read_metadata(tmp_path / "out").config
    assert (config["r"], config["alpha"]) == (4, 8)
    export_adapter(folder, out=tmp_path / "out")


def test_the_dtype_is_kept_by_default_and_can_be_set(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        folder = save(trained(make_decoder(), "lokr", KINDS[1][1]), tmp_path / str(dtype), dtype=dtype)
        export_adapter(folder, out=tmp_path / f"out {dtype}")
        assert read_adapter(tmp_path / f"out {dtype}").dtype == dtype
    export_adapter(folder, out=tmp_path / "wide", dtype="fp32")
    assert read_adapter(tmp_path / "wide").dtype == torch.float32


@every_kind
@pytest.mark.parametrize("strength", [0.5, -1.0])
def test_the_strength_is_multiplied_into_the_weights(
    tmp_path: Path, small_checkpoint: Path, kind: str, config: AdapterConfig, strength: float
) -> None:
    make_run(small_checkpoint, tmp_path / "run", kind, "alpha = dim" if kind == "lokr" else "alpha = r")
    options: dict[str, Any] = {"checkpoint": small_checkpoint, "strength": strength, "dtype": "fp32"}
    result = export_adapter(tmp_path / "run", "comfyui", out=tmp_path / "out", **options)
    assert result["output_error"] < 1e-4
    assert result["residual"] < 1e-4
    assert (result["form"] == "full weight differences (diff)") == (kind == "dora")


@pytest.mark.parametrize("strength", [0.0, float("nan")])
def test_a_strength_of_zero_or_nan_is_rejected(tmp_path: Path, strength: float) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    with pytest.raises(AdapterError, match="strength"):
        export_adapter(folder, out=tmp_path / "out", strength=strength)


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    first = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    second = save(trained(make_decoder(), *KINDS[1]), tmp_path / "b")
    export_adapter(first, out=tmp_path / "out")
    export_adapter(second, out=tmp_path / "out")
    assert sorted(contents(tmp_path / "out")) == ["README.md", "lokr_config.json", "lokr_weights.safetensors"]


@pytest.mark.parametrize(
    "what", ["a file", "notes beside an adapter", "a stranger's adapter", "other files", "a folder of training"]
)
def test_files_of_other_origin_are_never_overwritten(tmp_path: Path, what: str) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("precious")
    elif what == "other files":
        out.mkdir()
        (out / "song.wav").write_text("precious")
    elif what == "a folder of training":
        save(trained(make_decoder(), "lora", LORA), out)
    else:
        export_adapter(folder, out=out)
        if what == "notes beside an adapter":
            (out / "notes.txt").write_text("precious")
        else:
            file = out / "adapter_model.safetensors"
            save_file(load_file(file), file, {"format": "pt"})
    before = out.read_bytes() if out.is_file() else contents(out)
    with pytest.raises(StorageError, match="was not written by this program"):
        export_adapter(folder, out=out)
    assert (out.read_bytes() if out.is_file() else contents(out)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_an_export_to_an_empty_folder_is_allowed(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    (tmp_path / "out").mkdir()
    export_adapter(folder, out=tmp_path / "out")
    assert {"README.md", *contents(folder)} == {*contents(tmp_path / "out")}


@every_kind
def test_an_untrained_adapter_is_not_exported(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    folder = save(inject(make_decoder(), kind, config, "self", False), tmp_path / "a")
    with pytest.raises(AdapterError, match="has a zero weight delta in 8 of 8 modules"):
        export_adapter(folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["a module lost", "a value changed", "a NaN", "an unknown key"])
def test_a_file_that_fails_verification_does_not_replace_the_earlier_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    export_adapter(folder, "comfyui", out=tmp_path / "out")
    before = contents(tmp_path / "out")
    read = comfyui.read_tensors

    def read_damaged(file: Path) -> object:
        tensors, found = read(file)
        name = next(iter(tensors))
        if damage == "a module lost":
            tensors = {key: value for key, value in tensors.items() if "layers.1.mlp" not in key}
        elif damage == "an unknown key":
            tensors["transformer.layers.0.mlp.up_proj.lora_A.weight"] = tensors[name]
        else:
            tensors[name][0] += 0.5 if damage == "a value changed" else torch.nan
        return tensors, found

    monkeypatch.setattr(comfyui, "read_tensors", read_damaged)
    with pytest.raises(
        AdapterError, match=r"was not written completely|differs from the trained adapter|would contain NaN"
    ):
        export_adapter(folder, "comfyui", out=tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_an_unknown_target_is_rejected_with_the_known_targets(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a", AdapterMetadata())
    with pytest.raises(UnknownName, match="'garageband'") as caught:
        export_adapter(folder, to="garageband", out=tmp_path / "out")
    assert "acestep" in caught.value.hint


def test_every_exported_file_contains_the_metadata_of_the_run(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "run" / "final" / "adapter")
    options = {"prompt": "a zyx song", "license": "CC-BY-4.0"}
    result = export_adapter(folder, "all", out=tmp_path / "out", **options)  # type: ignore[arg-type]
    for target, name in (
        ("acestep", "adapter_model.safetensors"),
        ("comfyui", "run.safetensors"),
        ("diffusers", "pytorch_lora_weights.safetensors"),
    ):
        found = AdapterMetadata.from_file_metadata(metadata(tmp_path / "out" / target / "run" / name))
        assert found.facts == {"sample_prompt": "a zyx song", "license": "CC-BY-4.0"}
        assert (found.trigger_word, found.tag_position) == ("zyx", "append")
        assert (found.base_model, found.family, found.variant) == ("acestep-v15-tiny", "2b", "turbo")
        assert found.config == LORA.model_dump()
        card = (tmp_path / "out" / target / "run" / "README.md").read_text()
        for fact in ("`zyx`, append in the caption", "a zyx song", "CC-BY-4.0", "acestep-v15-tiny (2b family, turbo)"):
            assert fact in card
        assert result["targets"][target]["trigger_word"] == "zyx"


def test_the_sample_prompt_has_the_trigger_word_at_its_position_in_training(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    export_adapter(folder, out=tmp_path / "out")
    assert read_metadata(tmp_path / "out").facts["sample_prompt"].endswith(", zyx")
    assert CARD.tag_position == "append"


def test_an_adapter_of_another_family_is_rejected_with_a_clear_error(tmp_path: Path, small_checkpoint: Path) -> None:
    folder = save(trained(make_decoder("xl"), "lora", LORA), tmp_path / "a", AdapterMetadata(family="xl"))
    with pytest.raises(ModelMismatch, match=r"\(xl\); acestep-v15-small belongs to the 2b family"):
        export_adapter(folder, out=tmp_path / "out", checkpoint=small_checkpoint)
    unnamed = save(trained(make_decoder("xl"), "lora", LORA), tmp_path / "b", AdapterMetadata())
    with pytest.raises(
        ModelMismatch, match=r"has shape \[32, 80\]; acestep-v15-small belongs to the 2b family and expects \[64, 128\]"
    ):
        export_adapter(unnamed, out=tmp_path / "out", checkpoint=small_checkpoint)


def test_a_lokr_without_a_config_is_rejected_with_a_clear_error(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), *KINDS[1]), tmp_path / "a")
    (folder / "lokr_config.json").unlink()
    file = folder / "lokr_weights.safetensors"
    save_file(load_file(file), file, {"format": "pt"})
    with pytest.raises(AdapterError, match="its scale is unknown"):
        export_adapter(folder, out=tmp_path / "out")


@pytest.mark.parametrize("what", ["text", "another model's weights", "nothing"])
def test_a_file_that_is_not_an_adapter_is_rejected_with_a_clear_error(tmp_path: Path, what: str) -> None:
    file = tmp_path / "a.safetensors"
    if what == "text":
        file.write_text("hello")
    elif what == "another model's weights":
        save_file({"model.embed.weight": torch.ones(2, 2)}, file)
    with pytest.raises(AdapterError, match=r"cannot be read|no adapter of a supported kind|does not exist"):
        export_adapter(file, out=tmp_path / "out")


def test_a_dora_without_a_base_model_is_exported_to_programs_that_need_no_delta(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), *EVERY[5]), tmp_path / "a", AdapterMetadata(base_model="gone"))
    result = export_adapter(folder, "all", out=tmp_path / "out")
    assert set(result["targets"]) == {"acestep", "diffusers"}
    assert "--checkpoint" in result["refused"]["comfyui"]
    with pytest.raises(AdapterError, match="depends on the base model"):
        export_adapter(folder, "comfyui", out=tmp_path / "other")


def test_the_base_model_of_a_dora_is_found_by_the_name_in_its_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "checkpoints"
    make_run(write_checkpoint(root, "acestep-v15-mine"), tmp_path / "run", "dora", "alpha = r")
    monkeypatch.setattr("acestep.models.checkpoint.checkpoint_roots", lambda custom=None: [root])
    result = export_adapter(tmp_path / "run", "comfyui", out=tmp_path / "out")
    assert result["form"] == "full weight differences (diff)"
    tensors = load_file(result["adapter"])
    assert comfyui.load(tensors).ignored_keys == []
    assert {key.rpartition(".")[2] for key in tensors} == {"diff"}
