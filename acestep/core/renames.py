"""Renames and removals that wait for other programs, as Windows requires.

On Windows a file that any program has open without sharing it, or that is memory-mapped, can be neither replaced nor
removed, and neither can the folders above it. Antivirus programs, the indexer, Explorer and sync services open each new
file for a moment. No other module calls ``os.replace``, ``os.rename``, ``shutil.move`` or the methods of Path.

Standard library only: the checks before the installation import this module.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

# Windows error codes (learn.microsoft.com/windows/win32/debug/system-error-codes--0-499-).
_ACCESS_DENIED, _SHARING_VIOLATION = 5, 32
_WAITS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, *[0.5] * 9)  # 5 s in total

P = ParamSpec("P")
R = TypeVar("R")


def replace(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``, replacing a file there. Atomic. Raises OSError."""
    retry_while_held(os.replace, source, target)


def remove_folder(folder: Path) -> None:
    """Remove a folder and its content. Raises OSError."""
    retry_while_held(shutil.rmtree, folder)


def discard_folder(folder: Path) -> None:
    """Remove a folder as far as possible, if it exists. What another program holds stays."""
    try:
        remove_folder(folder)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)


def retry_while_held(operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call ``operation``, and repeat it for 5 s with growing pauses while another program holds a file of it.

    Raises:
        OSError: that of the last attempt; any other error at once.
    """
    for wait_s in _WAITS_S:
        try:
            return operation(*args, **kwargs)
        except PermissionError as problem:
            if not is_held(problem):
                raise
        time.sleep(wait_s)
    return operation(*args, **kwargs)


def is_held(problem: BaseException) -> bool:
    """Whether another program may hold the file; also True if the user lacks the permission. False outside Windows."""
    return isinstance(problem, PermissionError) and getattr(problem, "winerror", None) in (
        _ACCESS_DENIED,
        _SHARING_VIOLATION,
    )
