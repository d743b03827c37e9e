"""Standard input and output of this program and of the processes it starts. Standard library only.

On Windows a redirected stdout has the code page of the system, which raises UnicodeEncodeError for most characters. And
a process that inherits a pipe as stdin hangs when it starts, as long as another process waits for data from that pipe.
"""

from __future__ import annotations

import functools
import io
import os
import sys


def use_utf8() -> None:
    """Write UTF-8 to stdout and stderr, whatever the system is set to. For the entry points."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None under pythonw
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def utf8_environment() -> dict[str, str]:
    """The environment variables of this process for a Python program that it starts, which then uses UTF-8."""
    return os.environ | {"PYTHONUTF8": "1"}


@functools.cache
def take_stdin() -> int:
    """A descriptor of what was stdin of this process. From now on, its stdin is empty and its children inherit that.

    Call it before a thread waits for the other end of the pipe to be closed.
    """
    pipe = os.dup(0)  # not inherited
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return pipe
