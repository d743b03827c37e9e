"""The files of a folder and its sub-folders, without what is hidden or leads out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from acestep.dataset.labels import Problem

_LEADS_OUT = "Copy what it points to into the folder."


def walk(root: Path, problems: list[Problem]) -> list[Path]:
    """Files below ``root``, which is resolved, sorted by path. What is refused is told in ``problems``."""
    files: list[Path] = []
    for place, folders, names in os.walk(root, onerror=lambda problem: _unreadable(problem, problems)):
        parent = Path(place)
        folders[:] = [name for name in folders if _enters(parent / name, problems)]
        files += [parent / name for name in names if _counts(parent / name, root, problems)]
    return sorted(files)


def _unreadable(problem: OSError, problems: list[Problem]) -> None:
    hint = "Check that it is there and that this user may read it."
    problems.append(Problem(Path(problem.filename), f"cannot be read: {problem.strerror}", hint))


def _enters(folder: Path, problems: list[Problem]) -> bool:
    if folder.name.startswith("."):
        return False
    if os.path.islink(folder):
        problems.append(Problem(folder, "is a link to a folder and was not followed", _LEADS_OUT))
        return False
    return True


def _counts(path: Path, root: Path, problems: list[Problem]) -> bool:
    if path.name.startswith("."):
        return False
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        shown = path.with_name(path.name.encode("utf-8", "replace").decode())
        problems.append(Problem(shown, "has a name that is not Unicode and was ignored", "Rename it."))
        return False
    if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(root):
        problems.append(Problem(path, "is a link that leads out of the folder and was ignored", _LEADS_OUT))
        return False
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as problem:  # a link to nothing or to itself, a folder that may be listed but not entered
        _unreadable(problem, problems)
        return False
