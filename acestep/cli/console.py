"""What all commands share: output for people and for programs, and running a job in the terminal."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from acestep.core import renames
from acestep.core.config import Config
from acestep.core.console_follow import follow_events, stop_on_launcher_signals, stop_on_signals
from acestep.core.errors import ConfigError
from acestep.core.events import Cancelled, Event, Failed, Finished
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import JOBS, Context, check_job, exit_code, run_job, write_job
from acestep.core.launcher import Launch, detect_launch

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
    launch = detect_launch()
    if launch.world_size > 1 or (launch.launcher and JOBS[name].distributed):
        run_launched(name, config, folder, launch, json_output)
    if not is_written:
        check_job(name, config)
        write_job(folder, name, config)
    with stop_on_signals(folder, print_status), follow_events(folder, print_status):
        last = run_job(folder)
    if writes is not None and not (isinstance(last, Failed) and last.is_bug):
        renames.discard_folder(folder)
        folder = writes
    _print_outcome(last, folder, json_output)
    raise typer.Exit(exit_code(last))


def run_launched(name: str, config: Config, folder: Path, launch: Launch, json_output: bool) -> NoReturn:
    """Run this process's part of a job that torchrun or SLURM started, then exit with its code.

    Rank 0 prints events and result; the others log to their folders in ``workers/`` of the job, and print errors.
    Nothing is checked in advance: the processes check everything together when the job starts.

    Raises:
        ConfigError: the job cannot be shared, or is to start processes of its own.
    """
    _require_shareable(name, config, launch)
    own, stop = launch.own_folder(folder), threading.Event()
    write_job(own, name, config)
    context = Context(own, None if launch.is_main else folder, launch, stop)
    with stop_on_launcher_signals(stop), follow_events(own, print_status if launch.is_main else ignore_line):
        last = run_job(own, context)
    if launch.is_main or isinstance(last, Failed):
        _print_outcome(last, folder, json_output and launch.is_main)
    stopped_by_user = isinstance(last, Cancelled) and JobFolder(folder).stop_requested
    restarts = launch.launcher == "torchrun"  # with --max-restarts, if the code is not 0
    raise typer.Exit(0 if stopped_by_user and restarts else exit_code(last))


def _require_shareable(name: str, config: Config, launch: Launch) -> None:
    started = f"{launch.launcher} started {launch.world_size} process{'es' * (launch.world_size > 1)}"
    if not JOBS[name].distributed:
        raise ConfigError(f"{name} runs in one process, but {started}", hint=f"Run it without {launch.launcher}.")
    if getattr(config, "devices", 1) > 1:
        hint = f"Use the default of devices: {launch.launcher} starts one process per device."
        raise ConfigError(f"devices is {config.devices}, but {started}", hint=hint)  # type: ignore[attr-defined]


def ignore_line(_text: str) -> None:
    """In place of ``print_status`` in processes other than rank 0."""


def _print_outcome(last: Event, folder: Path, json_output: bool) -> None:
    if isinstance(last, Finished):
        print_result({"run": str(folder), **last.result}, json_output)
    elif isinstance(last, Failed):
        print_error(last.error, last.message, last.hint, json_output)
    elif json_output:
        print_json({"ok": False, "state": "stopped", "message": str(last), "run": str(folder)})


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
