"""The import rules of acestep/__init__.py, checked on the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import acestep

ROOT = Path(acestep.__file__).parent
LEVELS = [line.split(", ") for line in re.findall(r"^    (\w[\w, ]*)$", acestep.__doc__ or "", re.M)]
RANK = {name: -depth for depth, names in enumerate(LEVELS) for name in names}
MODULES = sorted(ROOT.rglob("*.py"))
FACES = ("launch", "lora_training_ui", "captioner_standalone")

# Modules at the root that the docstring does not name stand above all folders, so no folder but the pages uses them.
UNNAMED = {path.stem for path in ROOT.glob("*.py")} - set(RANK) - {"__init__"}

# What opens before torch does: the window, the command line, and what they need to know of songs and settings.
LIGHT = ("core", "dataset", "ui", "cli", "system", "audio.files", "models.catalog")


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_names(source: str) -> set[str]:
    """First part below acestep of each import, wherever in the file it stands."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the layer"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("acestep.")} | ({*names} & {*FACES})


def broken_imports(name: str, source: str) -> set[str]:
    used = imported_names(source) - {name}
    upward = {other for other in used if other in RANK and RANK[other] >= RANK.get(name, 1)}
    return upward | (used & UNNAMED if name in RANK and RANK[name] < 0 else set()) | (used & {*FACES})


def light_modules() -> list[str]:
    names = [".".join(path.relative_to(ROOT.parent).with_suffix("").parts) for path in MODULES]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    starts = tuple(f"acestep.{start}" for start in LIGHT)
    return [
        name
        for name in names
        if name.endswith(".configs") or any(name == start or name.startswith(start + ".") for start in starts)
    ]


def test_every_folder_has_a_layer() -> None:
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and list(path.glob("*.py"))}
    assert folders <= set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    assert not broken_imports(layer(path), path.read_text(encoding="utf-8"))


def test_sideways_and_upward_imports_are_caught() -> None:
    assert broken_imports("training", "from acestep.captioning import x") == {"captioning"}
    assert broken_imports("core", "def f():\n    import acestep.ui.form") == {"ui"}
    assert broken_imports("models", "from acestep import dataset") == {"dataset"}
    assert broken_imports("audio", "from acestep.system.doctor import diagnose") == {"system"}
    assert broken_imports("cli", "import launch") == {"launch"}
    assert not broken_imports("training", "from acestep.adapters import ADAPTERS")
    assert not broken_imports("ui", "from acestep.system.doctor import diagnose")


def imported_files(source: str, modules: set[str]) -> set[str]:
    """The modules among ``modules`` that a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules or {str(node.module)} & modules
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
    return found


def import_cycles(files: dict[str, str]) -> set[frozenset[str]]:
    """The groups of modules that import each other, directly or through others; ``files`` maps name to source."""
    graph = {name: imported_files(source, set(files)) - {name} for name, source in files.items()}
    reached = {name: reachable(graph, name) for name in graph}
    return {
        frozenset(other for other in reached[name] if name in reached[other]) for name in graph if name in reached[name]
    }


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


# The promised import path of the preset functions, which are imported on first use.
ALLOWED_CYCLE = frozenset({"acestep.training.configs", "acestep.training.presets"})


def test_no_files_import_each_other() -> None:
    cycles = import_cycles({module_name(path): path.read_text(encoding="utf-8") for path in MODULES})
    assert cycles == {ALLOWED_CYCLE}


def test_import_cycles_are_found_through_functions_and_other_files() -> None:
    files = {
        "acestep.a": "from acestep.b import x",
        "acestep.b": "def f():\n    from acestep import c",
        "acestep.c": "import acestep.a",
        "acestep.d": "from acestep.a import y",
    }
    assert import_cycles(files) == {frozenset({"acestep.a", "acestep.b", "acestep.c"})}
    assert not import_cycles({**files, "acestep.c": ""})


def test_what_opens_first_does_not_import_torch() -> None:
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(name + ' imports torch')\n"
    )
    names = [*light_modules(), *FACES]
    result = subprocess.run(
        [sys.executable, "-c", code, *names],
        stdin=subprocess.DEVNULL,
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert {"acestep.core.jobs", "acestep.cli.app", "acestep.ui.serve"} <= set(names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"
