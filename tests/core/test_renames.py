"""Renames on Windows, where other programs hold files open for a moment. ``os.replace`` is simulated."""

import ast
import os
import shutil

import pytest

from acestep.core import files, renames
from acestep.core.errors import ConfigError, NotWritable
from acestep.core.paths import PROJECT
from tests.windows import windows_error

NEVER = {"os": {"replace", "rename", "renames"}, "shutil": {"move", "rmtree"}}
OTHER_METHODS = {("self._app.dataset", "replace")}  # of ``EditableDataset``


class Held:
    """``os.replace`` and ``shutil.rmtree`` while another program holds the file for the first ``times`` calls."""

    def __init__(self, monkeypatch, times, code=32):
        self.waits = []
        self._remaining, self._code = times, code
        monkeypatch.setattr(renames.time, "sleep", self.waits.append)
        monkeypatch.setattr(os, "replace", self.during(os.replace))
        monkeypatch.setattr(shutil, "rmtree", self.during(shutil.rmtree))

    def during(self, plainly):
        def operation(*arguments, **named):
            if self._remaining > 0:
                self._remaining -= 1
                raise windows_error(self._code)
            return plainly(*arguments, **named)

        return operation


@pytest.mark.parametrize("code", [5, 32])
def test_a_file_that_is_held_for_a_moment_is_replaced_when_it_is_free(tmp_path, monkeypatch, code):
    files.write_text(tmp_path / "a.json", "old")
    held = Held(monkeypatch, times=3, code=code)
    files.write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"
    assert held.waits == [0.01, 0.02, 0.04]


def test_a_file_that_stays_held_is_not_writable_and_the_hint_names_the_likely_programs(tmp_path, monkeypatch):
    files.write_text(tmp_path / "a.json", "old")
    held = Held(monkeypatch, times=1000)
    with pytest.raises(NotWritable, match="a.json cannot be written") as error:
        files.write_text(tmp_path / "a.json", "new")
    assert "antivirus program, Explorer or a sync service" in error.value.hint
    assert 4.5 < sum(held.waits) < 5.5
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_a_file_that_is_just_being_replaced_is_read_when_it_is_free(tmp_path, monkeypatch):
    files.write_json(tmp_path / "a.json", {"a": 1})
    held = Held(monkeypatch, times=2)
    monkeypatch.setattr(files, "read_file", held.during(files.read_file))
    assert files.read_json(tmp_path / "a.json", error=ConfigError) == {"a": 1}
    assert len(held.waits) == 2


def test_a_folder_that_is_held_for_a_moment_is_replaced(tmp_path, monkeypatch):
    target = tmp_path / "best"
    for content in ("one", "two"):
        held = Held(monkeypatch, times=3)
        with files.replace_folder(target) as fresh:
            (fresh / "weights").write_text(content)
        assert held.waits
    assert (target / "weights").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_a_folder_that_stays_held_is_removed_as_far_as_possible(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    Held(monkeypatch, times=16)
    renames.discard_folder(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    renames.discard_folder(tmp_path / "a")


def test_other_errors_are_raised_at_once(tmp_path, monkeypatch):
    held = Held(monkeypatch, times=0)
    with pytest.raises(FileNotFoundError):
        renames.replace(tmp_path / "a", tmp_path / "b")
    assert held.waits == []
    for code in (112, None):
        held = Held(monkeypatch, times=1, code=code)
        with pytest.raises(OSError, match="simulated"):
            renames.replace(tmp_path / "a", tmp_path / "b")
        assert held.waits == []


def test_no_other_module_renames_files():
    sources = [*(PROJECT / "acestep").rglob("*.py"), *PROJECT.glob("*.py")]
    found = [name for path in sources if path.name != "renames.py" for name in _renames(path)]
    assert found == []
    assert list(_renames(PROJECT / "acestep" / "core" / "renames.py"))


def _renames(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in NEVER:
            assert not {alias.name for alias in node.names} & NEVER[node.module], path
        if isinstance(node, ast.Attribute) and node.attr in NEVER.get(ast.unparse(node.value), ()):
            yield f"{path}:{node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            method = (ast.unparse(node.func.value), node.func.attr)
            takes_a_path = len(node.args) == 1 and not node.keywords  # str.replace takes two arguments
            if node.func.attr in ("replace", "rename") and takes_a_path and method not in OTHER_METHODS:
                yield f"{path}:{node.lineno}"
