"""What all commands share: output for people and for programs, and running a job in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from acestep.core import renames
from acestep.core.config import Config
from acestep.core.console_follow import follow_events, stop_on_signals
from acestep.core.events import Failed, Finished
from acestep.core.jobs import check_job, exit_code, run_job, write_job

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


def run_in_terminal(
    name: str, config: Config, folder: Path, json_output: bool, *, is_written: bool = False, writes: Path | None = None
) -> None:
    """Run a job in this process with its events on stderr, then exit with its code.

    Ctrl-C and SIGTERM stop the job after the current unit of work.

    Args:
        is_written: another program has already written the job to ``folder``; a stop requested since then counts.
        writes: the folder that the job writes, if ``folder`` is a temporary one: it is removed unless its log is needed
            for a bug, and the result names this folder instead.
    """
    if not is_written:
        check_job(name, config)
        write_job(folder, name, config)
    with stop_on_signals(folder, print_status), follow_events(folder, print_status):
        last = run_job(folder)
    if writes is not None and not (isinstance(last, Failed) and last.is_bug):
        renames.discard_folder(folder)
        folder = writes
    if isinstance(last, Finished):
        print_result({"run": str(folder), **last.result}, json_output)
    elif isinstance(last, Failed):
        print_error(last.error, last.message, last.hint, json_output)
    elif json_output:
        print_json({"ok": False, "state": "stopped", "message": str(last), "run": str(folder)})
    raise typer.Exit(exit_code(last))


def print_status(text: str) -> None:
    """A line on stderr."""
    typer.echo(text, err=True)


def print_result(result: dict[str, Any], json_output: bool) -> None:
    """The result on stdout: one line per value, or one JSON object."""
    if json_output:
        return print_json({"ok": True, **result})
    for key, value in result.items():
        typer.echo(f"{key}: {value}")
    return None


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on a line of stdout."""
    typer.echo(json.dumps(data, ensure_ascii=False))


def print_error(kind: str, message: str, hint: str, json_output: bool) -> None:
    """The message and the hint on stderr, and with ``json_output`` one JSON object on stdout."""
    print_status(f"{message}\n  {hint}" if hint else message)
    if json_output:
        print_json({"ok": False, "error": kind, "message": message, "hint": hint})
