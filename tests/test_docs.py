"""What the documents show is true of the program: commands, links, paths, settings, events."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import pytest
import typer.main

from acestep.cli.app import app
from acestep.cli.settings import every_setting, reference
from acestep.core.event_log import TYPES
from acestep.core.paths import PROJECT

DOCUMENTS = sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])
NAMES = [path.relative_to(PROJECT).as_posix() for path in DOCUMENTS]
COMMAND = re.compile(r"(?:^|`)(?:env/bin/)?python -m acestep ([^`\n]+)", re.M)
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.M | re.S)
# Files of this repository that a document names. Outputs and data of users are not among them.
PATH = re.compile(r"(?<![\w/.])((?:acestep|tests|dev|docs)/[\w./-]*\w|[\w.]+\.(?:sh|bat|py|toml|md))(?![\w/*])")
TEMPORARY = {"README.md"}  # also the model card of an export


def content(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def shown_commands(name: str) -> list[str]:
    return [re.split(r" +# | > ", command)[0] for command in COMMAND.findall(content(name).replace("\\\n", ""))]


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_shown_is_understood(name: str) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command in shown_commands(name):
        first, *arguments = shlex.split(command)
        if first not in ("FOLDER", "COMMAND"):
            known[first].make_context(first, arguments, resilient_parsing="..." in command or not arguments)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_and_setting_named_exists(name: str) -> None:
    text = content(name)
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    spelled = " ".join(content(each) for each in ("launch.py", "captioner_standalone.py", "install.sh", "start.sh"))
    options = {*re.findall(r"--[a-z][\w-]+", spelled), *_options(known.values())}
    settings = {spelling for row in every_setting() for spelling in (row["name"], f"{row['group']}.{row['name']}")}
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]+", _without_launchers(text))) <= options
    assert set(re.findall(r"--(?:set|against) \"?([\w.]+)=", text)) <= settings | {"name"}  # name=value


def _without_launchers(text: str) -> str:
    """``text`` without the options of torchrun, srun and those that were removed."""
    text = re.sub(r"(\btorchrun|^srun) --.*(?= -m acestep)", "", text, flags=re.M)
    return re.sub(r"--(?:num-nodes|max-restarts|ntasks-per-node)\b", "", text)


def _options(commands: Iterable[Any]) -> set[str]:
    found: set[str] = {"--help"}
    for command in commands:
        found |= {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
        found |= _options(getattr(command, "commands", {}).values())
    return found


@pytest.mark.parametrize(("name", "least"), [("README.md", 5), ("TRAINING_GUIDE.md", 15)])
def test_the_commands_are_found(name: str, least: int) -> None:
    assert len(shown_commands(name)) >= least


def test_the_readme_begins_with_the_two_commands_to_set_up() -> None:
    block = content("README.md").split("```")[1]
    commands = [line.partition("#")[0].strip() for line in block.splitlines()[1:]]
    assert commands == ["./start.sh --demo", "tests/run.sh"]


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_files_and_headings_that_exist(name: str) -> None:
    for link in LINK.findall(content(name)):
        path, _, anchor = link.partition("#")
        if path.startswith(("http:", "https:")):
            continue
        target = (PROJECT / name).parent / path if path else PROJECT / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", NAMES)
def test_development_scripts_that_are_named_exist(name: str) -> None:
    for module in re.findall(r"python -m ((?:tests|dev)\.[\w.]+)", content(name)):
        assert (PROJECT / module.replace(".", "/")).with_suffix(".py").exists(), module


@pytest.mark.parametrize("name", NAMES)
def test_files_of_the_repository_that_are_named_exist(name: str) -> None:
    named = {path for code in re.findall(r"`([^`\n]+)`", content(name)) for path in PATH.findall(code)}
    folders = [PROJECT / folder for folder in ("acestep", "tests", "dev", "docs")]
    known = {file.name for folder in folders for file in folder.rglob("*.*")}
    missing = {path for path in named if not (PROJECT / path).exists() and ("/" in path or path not in known)}
    assert not missing - TEMPORARY


def test_the_labels_that_the_guide_names_are_on_the_pages() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (PROJECT / "acestep" / "ui").rglob("*.py")]
    shown = {node.value for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    labels = set(re.findall(r"\*\*([^*]+)\*\*", content("TRAINING_GUIDE.md").replace("\n", " ")))
    assert len(labels) >= 15
    assert labels <= shown


def test_the_reference_of_the_settings_is_that_of_the_program() -> None:
    assert content("docs/SETTINGS.md") == reference(), "python -m acestep settings --markdown > docs/SETTINGS.md"


def test_the_formats_list_every_event_with_its_fields() -> None:
    events_table = content("docs/FORMATS.md").partition("### Events")[2].partition("## Run folder")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+)$", events_table, re.M))
    assert set(rows) == set(TYPES)
    for name, kind in TYPES.items():
        keys = {kind.keys.get(field.name, field.name) for field in fields(kind)}
        assert keys - {"time_s"} <= set(re.findall(r"`(\w+)`", rows[name])), name


def test_the_walks_name_what_the_files_contain() -> None:
    walks = content("docs/ARCHITECTURE.md").partition("## Walks through the code")[2].partition("\n## ")[0]
    steps = re.findall(r"^\d+\. (`acestep/.+?)(?=^\d+\. |^#|\Z)", walks, re.M | re.S)
    assert len(steps) >= 30
    for step in steps:
        source = "".join(content(path) for path in re.findall(r"`(acestep/[\w/]+\.py)`", step))
        names = re.findall(r"`([A-Za-z_]\w*)`", step)
        assert [name for name in names if name not in source] == [], step
