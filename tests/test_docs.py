"""Every command that README and guide show is one that the program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from acestep.cli import app
from acestep.cli_settings import reference
from acestep.core.paths import PROJECT

SOURCES = [PROJECT / "README.md", PROJECT / "TRAINING_GUIDE.md"]


def shown_commands(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8").replace("\\\\\n", "")
    return re.findall(r"^env/bin/python -m acestep (.+)$", text, re.M)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_command_shown_is_understood(path: Path) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    commands = shown_commands(path)
    assert len(commands) >= 5
    for command in commands:
        name, *arguments = shlex.split(command)
        known[name].make_context(name, arguments)


def test_the_readme_begins_with_the_two_commands_to_set_up() -> None:
    block = (PROJECT / "README.md").read_text(encoding="utf-8").split("```")[1]
    commands = [line.partition("#")[0].strip() for line in block.splitlines()[1:]]
    assert commands == ["./start.sh --demo", "tests/run.sh"]


@pytest.mark.parametrize("name", ["README.md", "TRAINING_GUIDE.md"])
def test_files_that_are_linked_exist(name: str) -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)\)", (PROJECT / name).read_text(encoding="utf-8"))
    assert all((PROJECT / link).exists() for link in links)


def test_the_reference_of_the_settings_is_that_of_the_program() -> None:
    told = (PROJECT / "docs" / "SETTINGS.md").read_text(encoding="utf-8")
    assert told == reference(), "python -m acestep settings --markdown > docs/SETTINGS.md"
