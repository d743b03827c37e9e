"""Renames and removals that wait for other programs, which Windows needs.

On Windows a file that any program has open without sharing it, or that is memory-mapped, can be neither replaced nor
removed, and neither can the folders above it. Antivirus programs, the indexer, Explorer and sync services open each new
file for a moment. No other module calls ``os.replace``, ``os.rename``, ``shutil.move`` or the methods of Path.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

# Windows error codes (learn.microsoft.com/windows/win32/debug/system-error-codes--0-499-).
_ACCESS_DENIED, _SHARING_VIOLATION = 5, 32
_FIRST_WAIT_S, _MAX_WAIT_S = 0.01, 0.5
_MAX_ATTEMPTS = 16  # 5.1 s in total

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
    attempts = Retrying(
        retry=retry_if_exception(is_held),
        wait=wait_exponential(multiplier=_FIRST_WAIT_S, max=_MAX_WAIT_S),
        stop=stop_after_attempt(_MAX_ATTEMPTS),
        sleep=time.sleep,
        reraise=True,
    )
    return attempts(operation, *args, **kwargs)


def is_held(problem: BaseException) -> bool:
    """Whether another program may hold the file; also True if the user lacks the permission. False outside Windows."""
    return isinstance(problem, PermissionError) and getattr(problem, "winerror", None) in (
        _ACCESS_DENIED,
        _SHARING_VIOLATION,
    )
