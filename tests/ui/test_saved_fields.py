"""What was typed into the pages is kept, and what the program sets reaches pages without undoing what is typed."""

from pathlib import Path

from acestep.ui.settings import Settings


def test_values_are_there_after_a_restart(tmp_path: Path) -> None:
    Settings(tmp_path / "settings.json").put({"training.max_epochs": 7, "folder": "Müsik & more"})
    again = Settings(tmp_path / "settings.json")
    assert (again.get("training.max_epochs"), again.text("folder")) == (7, "Müsik & more")


def test_a_page_takes_over_only_what_the_program_has_set_since_it_last_looked(tmp_path: Path) -> None:
    settings = Settings(tmp_path / "settings.json")
    settings.put({"typed": "by a person", "epochs": 5})
    settings.push({"epochs": 80})
    shown = settings.pushed
    settings.put({"epochs": 90})
    assert settings.pushed_after(shown) == {}
    settings.push({"rank": 16})
    assert settings.pushed_after(shown) == {"rank": 16}
    assert settings.pushed_after(-1) == {"typed": "by a person", "epochs": 90, "rank": 16}


def test_a_damaged_file_is_put_aside_and_the_page_starts_afresh(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("{not json")
    assert Settings(path).get("anything") is None
    assert path.with_suffix(".damaged.json").read_text() == "{not json"
