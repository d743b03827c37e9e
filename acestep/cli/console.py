"""What every command shares: how it speaks to people and programs, and how it runs a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from acestep.core.config import Config
from acestep.core.console_follow import follow_events, stop_on_signals
from acestep.core.events import Failed, Finished
from acestep.core.jobs import exit_code, run_job, write_job

Json = Annotated[bool, typer.Option("--json", help="End with one JSON object on stdout.")]


def do(name: str, config: Config, folder: Path, json_output: bool, *, written: bool = False) -> None:
    """Run a job here, its events on stderr; Ctrl-C and SIGTERM stop it between two units of work.

    ``written`` if another program has just put it into ``folder``: then a stop that was asked for since counts.
    """
    if not written:
        write_job(folder, name, config)
    with stop_on_signals(folder, say), follow_events(folder, say):
        last = run_job(folder)
    if isinstance(last, Finished):
        answer({"run": str(folder), **last.result}, json_output)
    elif isinstance(last, Failed):
        print_error(last.error, last.message, last.hint, json_output)
    elif json_output:
        print_json({"ok": False, "state": "stopped", "message": str(last), "run": str(folder)})
    raise typer.Exit(exit_code(last))


def say(text: str) -> None:
    typer.echo(text, err=True)


def answer(result: dict[str, Any], json_output: bool) -> None:
    """The result on stdout: a line per value for people, or one JSON object."""
    if json_output:
        return print_json({"ok": True, **result})
    for key, value in result.items():
        typer.echo(f"{key}: {value}")
    return None


def print_json(data: dict[str, Any]) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False))


def print_error(kind: str, message: str, hint: str, json_output: bool) -> None:
    say(f"{message}\n  {hint}" if hint else message)
    if json_output:
        print_json({"ok": False, "error": kind, "message": message, "hint": hint})
