"""What was typed into the pages is kept, and what the program sets reaches pages without undoing what is typed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from gradio.state_holder import SessionState

from acestep.core.files import write_versioned
from acestep.ui.settings import Settings
from acestep.ui.trainer.app import build
from acestep.ui.trainer.app_state import AppState
from acestep.ui.workspace import Workspace


def test_values_are_restored_after_a_restart(tmp_path: Path) -> None:
    Settings(tmp_path / "settings.json").put({"training.max_epochs": 7, "folder": "Müsik & more"})
    again = Settings(tmp_path / "settings.json")
    assert (again.get("training.max_epochs"), again.text("folder")) == (7, "Müsik & more")


def test_a_page_updates_only_values_set_since_its_last_poll(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "settings.json")
    settings.put({"typed": "by a person", "epochs": 5})
    settings.push({"epochs": 80})
    shown = settings.pushed
    settings.put({"epochs": 90})
    assert settings.pushed_after(shown) == {}
    settings.push({"rank": 16})
    assert settings.pushed_after(shown) == {"rank": 16}
    assert settings.pushed_after(-1) == {"typed": "by a person", "epochs": 90, "rank": 16}


def test_a_corrupt_file_is_moved_aside_and_defaults_are_used(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("{not json")
    settings = Settings(path)
    assert settings.get("anything") is None
    assert "settings.damaged.json" in settings.problem
    assert path.with_suffix(".damaged.json").read_text() == "{not json"


def test_a_file_that_cannot_be_written_is_reported_until_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "pages"
    settings = Settings(folder / "settings.json")
    folder.write_text("a file where the folder belongs")
    settings.put({"epochs": 5})
    assert "not saved" in settings.problem
    folder.unlink()
    settings.put({"rank": 16})
    assert settings.problem == ""
    assert Settings(folder / "settings.json").get("epochs") == 5


def opened(tmp_path: Path, values: dict[str, Any]) -> tuple[AppState, list[Any]]:
    """The trainer with saved values, and what a browser receives when the page opens, as Gradio sends it."""
    write_versioned(tmp_path / "profiles" / ".pages" / "trainer.json", "settings", 1, {"values": values})
    app = AppState(Workspace(tmp_path))
    blocks = build(app)
    load = next(function for function in blocks.fns.values() if function.targets[0][1] == "load")
    answer = asyncio.run(blocks.process_api(load, inputs=[], state=SessionState(blocks)))
    orjson.dumps(answer["data"])
    return app, answer["data"]


def test_saved_values_that_do_not_fit_are_reset_with_a_message_and_the_page_opens(tmp_path: Path) -> None:
    values = {
        "training.early_stop_patience": 10**30 + 7,
        "training.max_epochs": "many",
        "training.train_mlp": "yes",
        "samples.prompt": "x" * 200_000,
        "train.out": [["lora_output"]],
        "train.name": 10**30,
        "train.auto-epochs": "on",
        "split.seconds": 77,
        "training.batch_size": 3,
    }
    app, data = opened(tmp_path, values)
    assert app.settings.get("training.batch_size") == 3
    assert app.settings.dropped.keys() == values.keys() - {"training.batch_size"}
    assert not [key for key in values if key != "training.batch_size" and app.settings.get(key) is not None]
    shown = str(data)
    assert "Saved values that do not fit their fields were reset" in shown
    assert f"Patience: {10**30 + 7}" in shown
    assert len(shown) < 500_000
    again, data = opened(tmp_path, app.settings.pushed_after(-1))
    assert not again.settings.dropped
    assert "were reset" not in str(data)


@pytest.mark.parametrize(("saved", "shown"), [(True, "on"), (False, "off"), ("offload", "offload")])
def test_a_choice_is_restored_in_its_present_form(tmp_path: Path, saved: Any, shown: str) -> None:
    app, data = opened(tmp_path, {"training.gradient_checkpointing": saved})
    assert not app.settings.dropped
    assert app.settings.get("training.gradient_checkpointing") == shown
    assert any(isinstance(each, dict) and each.get("value") == shown for each in data)


def test_text_that_has_to_be_corrected_is_shown_again(tmp_path: Path) -> None:
    values = {"piece.bpm": "3 or 4", "lora.dropout": 7, "samples.strengths": "loud"}
    app, data = opened(tmp_path, values)
    assert not app.settings.dropped
    assert all(any(isinstance(each, dict) and each.get("value") == value for each in data) for value in values.values())


def test_the_message_about_a_reset_value_disappears_when_the_field_is_set(tmp_path: Path) -> None:
    app, _ = opened(tmp_path, {"training.early_stop_patience": 10**30})
    assert app.settings.dropped
    app.settings.put({"training.early_stop_patience": 5})
    assert not app.settings.dropped


def test_a_value_of_a_profile_that_does_not_fit_is_reset(tmp_path: Path) -> None:
    app, _ = opened(tmp_path, {})
    app.settings.push({"dataset.folder": 10**30})
    blocks = build(app)  # another page
    load = next(function for function in blocks.fns.values() if function.targets[0][1] == "load")
    orjson.dumps(asyncio.run(blocks.process_api(load, inputs=[], state=SessionState(blocks)))["data"])
    assert list(app.settings.dropped) == ["dataset.folder"]


def test_what_a_person_has_entered_is_remembered_after_a_restart_and_never_replaced_by_a_suggestion(
    tmp_path: Path,
) -> None:
    settings = Settings(tmp_path / "settings.json")
    settings.enter("epochs", 7, shown_push=settings.pushed, default=100)
    settings = Settings(tmp_path / "settings.json")
    settings.suggest({"epochs": 500, "every": 100}, {"epochs": 7, "every": 10})
    assert (settings.get("epochs"), settings.get("every")) == (7, 100)
    assert settings.is_entered("epochs")
    assert not settings.is_entered("every")
    settings.push({"epochs": 500}, entered=False)
    settings.suggest({"epochs": 300}, {"epochs": 500})
    assert settings.get("epochs") == 300


def test_leaving_a_field_without_a_change_is_no_entry(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "settings.json")
    settings.enter("epochs", 100, shown_push=settings.pushed, default=100)
    settings.enter("name", "", shown_push=settings.pushed, default=None)
    assert not settings.is_entered("epochs")
    assert not settings.is_entered("name")
    settings.suggest({"epochs": 500}, {"epochs": 100})
    settings.enter("epochs", 100, shown_push=0, default=100)  # from a page that still shows the value before
    assert settings.get("epochs") == 500


def test_a_value_that_arrives_after_a_profile_was_loaded_does_not_replace_that_of_the_profile(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "settings.json")
    shown = settings.pushed
    settings.push({"epochs": 80}, entered=True)
    settings.enter("epochs", 7, shown_push=shown, default=100)
    assert settings.get("epochs") == 80
    settings.enter("rank", 8, shown_push=shown, default=64)
    assert settings.get("rank") == 8
    settings.enter("epochs", 7, shown_push=settings.pushed, default=100)
    assert settings.get("epochs") == 7


def test_a_value_that_arrives_after_a_suggestion_replaces_it_and_is_shown_again(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "settings.json")
    shown = settings.pushed
    settings.suggest({"epochs": 500}, {"epochs": 100})
    suggested = settings.pushed
    settings.enter("epochs", 7, shown_push=shown, default=100)
    assert settings.pushed_after(suggested) == {"epochs": 7}
    assert settings.is_entered("epochs")


def test_a_value_entered_while_a_preset_is_applied_is_not_lost(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "settings.json")
    shown = settings.pushed
    settings.push({"rank": 32}, entered=False, shown={"rank": 32})
    settings.enter("rank", 32, shown_push=shown, default=64)
    assert not settings.is_entered("rank")
    settings.enter("rank", 9, shown_push=shown, default=64)
    assert settings.get("rank") == 9
    assert settings.is_entered("rank")


def test_all_values_of_an_earlier_version_count_as_entered(tmp_path: Path) -> None:
    write_versioned(tmp_path / "settings.json", "settings", 1, {"values": {"epochs": 7}})
    settings = Settings(tmp_path / "settings.json")
    settings.suggest({"epochs": 500}, {"epochs": 7})
    assert settings.get("epochs") == 7
