"""An export target that is registered at run time works everywhere without further edits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from safetensors.torch import load_file, save_file

from acestep.core.errors import UnknownName
from acestep.exporting.load_result import LoadResult, WrittenAdapter
from acestep.exporting.model_card import README
from acestep.exporting.package import export_adapter
from acestep.exporting.source import ExportSource, read_tensors, serialize_adapter
from acestep.exporting.targets import TARGETS
from tests.adapters.small import LORA, make_decoder, save, trained


def write(source: ExportSource, folder: Path, name: str) -> WrittenAdapter:
    """Write the LoRA with original names."""
    tensors, metadata = serialize_adapter(source.lora)
    save_file(tensors, folder / "toy.safetensors", {**metadata})
    modules: dict[str, dict[str, object]] = {}
    for key, tensor in read_tensors(folder / "toy.safetensors")[0].items():
        module, part, _ = key.removeprefix("base_model.model.").rsplit(".", 2)
        modules.setdefault(module, {})[part] = tensor
    scale = source.lora.config.alpha / source.lora.config.r  # type: ignore[union-attr]
    for parts in modules.values():
        parts["lora_B"] = parts["lora_B"] * scale  # type: ignore[operator]
    return WrittenAdapter(LoadResult(modules), "lora", True, "toy.safetensors")  # type: ignore[arg-type]


@pytest.fixture
def toy_target() -> Iterator[None]:
    TARGETS.register("toy", target=f"{__name__}:write", label="Toy program")
    yield
    TARGETS.unregister("toy")


def test_an_adapter_is_exported_and_verified(toy_target: None, tmp_path: Path) -> None:
    adapter = save(trained(make_decoder(), "lora", LORA), tmp_path / "adapter")
    result = export_adapter(adapter, "toy", out=tmp_path / "out")
    assert result["residual"] < 1e-2
    assert len(load_file(result["adapter"])) == 2 * result["modules"]
    assert "See the documentation of Toy program." in (tmp_path / "out" / README).read_text(encoding="utf-8")
    assert json.dumps(result)
    everything = export_adapter(adapter, "all", out=tmp_path / "all")
    assert "toy" in everything["targets"]


def test_the_page_lists_it(toy_target: None, tmp_path: Path) -> None:
    from acestep.ui.trainer.app import build
    from acestep.ui.trainer.app_state import AppState
    from acestep.ui.workspace import Workspace

    page = build(AppState(Workspace(tmp_path)))
    [radio] = [block for block in page.blocks.values() if getattr(block, "elem_id", None) == "tr-export-target"]
    assert isinstance(radio, gr.Radio)
    assert ("Toy program", "toy") in radio.choices


def test_it_is_unknown_before_it_is_registered(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="toy"):
        export_adapter(tmp_path, "toy", out=tmp_path / "out")
