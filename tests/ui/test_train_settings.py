"""The settings of a training run on the page, without a browser: presets, recommended epochs, undo."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from acestep.adapters.configs import ADAPTERS
from acestep.training.presets import gpu_presets, list_presets, load_preset
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.train_settings import TrainSettings
from acestep.ui.workspace import Workspace

ALL_PRESETS = [*list_presets(), *gpu_presets().values()]


@dataclass
class TrainPage:
    """The fields of 4. Train and the page that they are on."""

    page: TrainerContext
    train: TrainSettings

    @property
    def app(self) -> AppState:
        return self.page.app

    def value(self, key: str) -> Any:
        return self.page.saved_fields.value(key)

    def enter(self, key: str, value: Any) -> None:
        """What the browser sends when a person types into a field."""
        self.app.settings.enter(key, value, shown_push=self.app.settings.pushed, default=self.value(key))

    def select_adapter(self, kind: str) -> None:
        self.enter("training.adapter_type", kind)
        self.train.preset.apply_again()

    def poll(self) -> str:
        """What an open page shows of all panels."""
        return str(self.page.live.refresh({}))

    def write_tensors(self, songs: int) -> None:
        folder = self.app.workspace.root / "datasets" / "preprocessed_tensors"
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{number}.pt" for number in range(songs)]
        for name in names:
            (folder / name).write_bytes(b"")
        content = {"version": 1, "samples": names, "num_samples": songs, "metadata": {}}
        (folder / "manifest.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> TrainPage:
    app = AppState(Workspace(tmp_path_factory.mktemp("page")))
    with gr.Blocks() as blocks:
        tabs = gr.Tabs()
        page = TrainerContext(app, blocks, tabs)
        with tabs, page.begin_tab("train"):
            train = TrainSettings(page)
    return TrainPage(page, train)


@pytest.fixture
def fields(built: TrainPage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> TrainPage:
    """The same page with nothing entered yet."""
    monkeypatch.setattr(built.app.settings, "_values", {})
    monkeypatch.setattr(built.app.settings, "_entered", set())
    monkeypatch.setattr(built.app, "workspace", Workspace(tmp_path))
    return built


@pytest.mark.parametrize("kind", ADAPTERS.names)
@pytest.mark.parametrize("name", ALL_PRESETS)
def test_every_preset_keeps_the_selected_adapter_type_and_gives_a_valid_run(
    fields: TrainPage, name: str, kind: str
) -> None:
    fields.select_adapter(kind)
    fields.train.preset.apply(name)
    job = fields.train.current()
    wanted = load_preset(name, kind)
    own = {f"{kind}_{key}": value for key, value in job.adapter.model_dump().items()}
    assert (job.training.model_dump() | own).items() >= {
        key: value for key, value in wanted.items() if key.startswith(f"{kind}_") or hasattr(job.training, key)
    }.items()
    assert job.training.adapter_type == kind


def test_another_adapter_type_after_a_preset_takes_its_settings_and_keeps_what_was_entered(fields: TrainPage) -> None:
    fields.train.preset.apply("recommended")
    fields.enter("training.max_epochs", 7)
    fields.select_adapter("lokr")
    job = fields.train.current()
    assert (job.training.adapter_type, job.training.learning_rate, job.training.max_epochs) == ("lokr", 3e-4, 7)
    fields.select_adapter("loha")
    assert fields.train.current().loha.r == 32


def test_undo_restores_what_a_preset_has_replaced_and_the_preset_before(fields: TrainPage) -> None:
    fields.train.preset.apply("recommended")
    fields.enter("training.max_epochs", 7)
    fields.enter("lora.r", 9)
    fields.train.preset.apply("vram_8gb")
    assert fields.value("training.max_epochs") == 100
    shown = fields.poll()
    assert "Replaced what you entered: Max Epochs (7 → 100), Rank (9 → 16)." in shown
    fields.enter("training.batch_size", 3)
    fields.page.changes.undo()
    assert [fields.value(key) for key in ("training.max_epochs", "lora.r", "train.preset")] == [7, 9, "recommended"]
    assert fields.value("training.batch_size") == 3
    assert fields.app.settings.is_entered("training.max_epochs")
    assert "Replaced what you entered" not in fields.poll()


def test_recommended_epochs_follow_the_tensors_until_a_value_is_entered(fields: TrainPage) -> None:
    fields.poll()
    assert fields.value("training.max_epochs") == 100  # no songs yet
    fields.write_tensors(12)
    assert "Recommended for 12 songs: 500 epochs, a checkpoint every 100." in fields.poll()
    assert (fields.value("training.max_epochs"), fields.value("training.save_every_n_epochs")) == (500, 100)
    fields.write_tensors(3)
    fields.poll()
    assert (fields.value("training.max_epochs"), fields.value("training.save_every_n_epochs")) == (1500, 200)
    fields.enter("training.max_epochs", 7)
    fields.write_tensors(12)
    assert "You entered Max Epochs." in fields.poll()
    assert (fields.value("training.max_epochs"), fields.value("training.save_every_n_epochs")) == (7, 100)


def test_epochs_stay_as_they_are_without_automatic_recommendation(fields: TrainPage) -> None:
    fields.enter("train.auto-epochs", False)
    fields.write_tensors(12)
    assert "Use 500 epochs" in fields.poll()
    assert fields.value("training.max_epochs") == 100


@pytest.mark.parametrize(("name", "epochs"), [("vram_8gb", 500), ("gpu_8gb", 500), ("quick_test", 10)])
def test_the_recommendation_replaces_the_epochs_of_a_preset_unless_they_are_its_purpose(
    fields: TrainPage, name: str, epochs: int
) -> None:
    fields.write_tensors(12)
    fields.train.preset.apply(name)
    fields.poll()
    assert fields.value("training.max_epochs") == epochs
