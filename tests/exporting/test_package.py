"""An export is a whole adapter that was read back, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from acestep.adapters.card import AdapterCard
from acestep.adapters.configs import AdapterConfig
from acestep.adapters.files import inject, read_adapter, read_card
from acestep.core.errors import AdapterError, StorageError, UnknownName
from acestep.exporting import package
from acestep.exporting.package import export_adapter
from tests.adapters.small import (
    CARD,
    KINDS,
    LORA,
    answer,
    make_decoder,
    relative,
    save,
    trained,
    with_original_names,
)

every_kind = pytest.mark.parametrize(("kind", "config"), KINDS)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@every_kind
def test_an_adapter_of_ours_is_exported_byte_for_byte(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    folder = save(trained(make_decoder(), kind, config), tmp_path / "run" / "final" / "adapter")
    result = export_adapter(tmp_path / "run", to="acestep", out=tmp_path / "my song")
    assert result["adapter"] == str(tmp_path / "my song")
    assert result["kind"] == kind
    assert result["modules"] == 22
    assert 0 < result["delta_norm"][0] <= result["delta_norm"][1]
    assert result["trigger_word"] == "zyx"
    assert json.loads(json.dumps(result)) == result
    assert contents(tmp_path / "my song") == contents(folder)


def test_of_a_run_the_best_adapter_stands_in_for_a_missing_final_one(tmp_path: Path) -> None:
    save(trained(make_decoder(), "lora", LORA), tmp_path / "run" / "checkpoints" / "epoch_30" / "adapter")
    best = save(trained(make_decoder(), "lora", LORA), tmp_path / "run" / "best" / "adapter")
    result = export_adapter(tmp_path / "run", out=tmp_path / "out")
    assert result["source"] == str(best / "adapter_model.safetensors")


def test_a_lora_of_another_trainer_gets_its_scale_folded_in(tmp_path: Path) -> None:
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
    assert read_card(tmp_path / "out").config == {"r": 4, "alpha": 8, "dropout": 0.1}
    export_adapter(folder, out=tmp_path / "out")


def test_the_precision_of_the_file_is_kept(tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        folder = save(trained(make_decoder(), "lokr", KINDS[1][1]), tmp_path / str(dtype), dtype=dtype)
        export_adapter(folder, out=tmp_path / f"out {dtype}")
        assert read_adapter(tmp_path / f"out {dtype}").dtype == dtype


def test_an_earlier_export_is_replaced(tmp_path: Path) -> None:
    first = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    second = save(trained(make_decoder(), *KINDS[1]), tmp_path / "b")
    export_adapter(first, out=tmp_path / "out")
    export_adapter(second, out=tmp_path / "out")
    assert contents(tmp_path / "out") == contents(second)


@pytest.mark.parametrize("what", ["a file", "notes beside an adapter", "a stranger's adapter", "other files"])
def test_what_this_program_did_not_make_is_never_overwritten(tmp_path: Path, what: str) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    out = tmp_path / "out"
    if what == "a file":
        out.write_text("precious")
    elif what == "other files":
        out.mkdir()
        (out / "song.wav").write_text("precious")
    else:
        save(trained(make_decoder(), "lora", LORA), out)
        if what == "notes beside an adapter":
            (out / "notes.txt").write_text("precious")
        else:
            file = out / "adapter_model.safetensors"
            save_file(load_file(file), file, {"format": "pt"})
    before = out.read_bytes() if out.is_file() else contents(out)
    with pytest.raises(StorageError, match="was not made by this program"):
        export_adapter(folder, out=out)
    assert (out.read_bytes() if out.is_file() else contents(out)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    (tmp_path / "out").mkdir()
    export_adapter(folder, out=tmp_path / "out")
    assert contents(tmp_path / "out") == contents(folder)


@every_kind
def test_an_adapter_that_never_learned_is_not_exported(tmp_path: Path, kind: str, config: AdapterConfig) -> None:
    folder = save(inject(make_decoder(), kind, config, "self", False), tmp_path / "a")
    with pytest.raises(AdapterError, match="changes nothing at 8 of 8 modules"):
        export_adapter(folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["a module lost", "a value changed"])
def test_a_file_that_does_not_read_back_the_same_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    export_adapter(folder, out=tmp_path / "out")
    before = contents(tmp_path / "out")

    def read_damaged(path: Path) -> object:
        stored = read_adapter(path)
        if path.name.startswith("."):  # what was just written
            name = next(iter(stored.weights))
            stored.weights[name].add_(1) if damage == "a value changed" else stored.weights.pop(name)
        return stored

    monkeypatch.setattr(package, "read_adapter", read_damaged)
    with pytest.raises(AdapterError, match="the written adapter differs from"):
        export_adapter(folder, out=tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


def test_an_unknown_target_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a", AdapterCard())
    with pytest.raises(UnknownName, match="'garageband'") as caught:
        export_adapter(folder, to="garageband", out=tmp_path / "out")
    assert "acestep" in caught.value.hint


def test_the_facts_of_the_run_go_along(tmp_path: Path) -> None:
    folder = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    export_adapter(folder, out=tmp_path / "out")
    assert read_card(tmp_path / "out") == CARD.stamped("lora", LORA.model_dump())
