"""What was typed into the pages is kept, and what the program sets reaches pages without undoing what is typed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
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
