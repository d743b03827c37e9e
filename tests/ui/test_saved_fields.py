"""What was typed into the pages is kept, and what the program sets reaches pages without undoing what is typed."""

from pathlib import Path

from acestep.ui.settings import Settings


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
