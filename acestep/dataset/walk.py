"""Listing the files of a folder recursively, without hidden files, system folders and links that point outside."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from acestep.dataset.labels import Problem

# Folders that operating systems, network drives, archives and package managers create beside the user's files.
_SYSTEM_FOLDERS = ("@eadir", "#recycle", "__macosx", "$recycle.bin", "system volume information", "lost+found")
_PACKAGE_FOLDERS = ("venv", "virtualenv", "site-packages", "node_modules")
_VIRTUAL_ENVIRONMENT = "pyvenv.cfg"  # a file in every environment of Python
_LINK_HINT = "Copy the target into the folder."


def walk(root: Path, problems: list[Problem]) -> list[Path]:
    """All files below ``root`` (a resolved path), sorted by path. Skipped files are added to ``problems``."""
    files: list[Path] = []
    for folder, folders, names in os.walk(root, onerror=lambda error: _report_unreadable(error, problems)):
        parent = Path(folder)
        folders[:] = [name for name in folders if _should_enter(parent / name, problems)]
        files += [parent / name for name in names if _is_usable(parent / name, root, problems)]
    return sorted(files)


def _report_unreadable(error: OSError, problems: list[Problem]) -> None:
    hint = "Check that it exists, and check its permissions."
    problems.append(Problem(Path(error.filename), f"cannot be read: {error.strerror}", hint))


def _should_enter(folder: Path, problems: list[Problem]) -> bool:
    if folder.name.startswith(".") or folder.name.casefold() in _SYSTEM_FOLDERS + _PACKAGE_FOLDERS:
        return False
    if os.path.exists(folder / _VIRTUAL_ENVIRONMENT):
        return False
    if os.path.islink(folder):
        problems.append(Problem(folder, "is a link to a folder; not followed", _LINK_HINT))
        return False
    return True


def _is_usable(path: Path, root: Path, problems: list[Problem]) -> bool:
    if path.name.startswith("."):
        return False
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        shown = path.with_name(path.name.encode("utf-8", "replace").decode())
        problems.append(Problem(shown, "has a name that is not valid Unicode; ignored", "Rename the file."))
        return False
    try:
        if os.path.islink(path) and not Path(os.path.realpath(path)).is_relative_to(root):
            problems.append(Problem(path, "is a link to a file outside the folder; ignored", _LINK_HINT))
            return False
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:  # a broken or circular link, or a folder without permission to enter
        _report_unreadable(error, problems)
        return False
