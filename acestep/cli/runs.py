"""Commands for run folders: run, runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acestep.cli.console import Json, print_json, run_in_terminal
from acestep.core.jobs import read_job
from acestep.core.runs import list_runs
from acestep.training.configs import TrainJob
from acestep.training.state.run_folder import RunFolder

commands = typer.Typer()


@commands.command()
def run(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    json_output: Json = False,
    as_written: Annotated[bool, typer.Option("--as-written", hidden=True)] = False,
) -> None:
    """Run the job of a run folder, or resume it."""
    name, config = read_job(folder)
    if not as_written and isinstance(config, TrainJob):
        _resume_from_latest(config)
    run_in_terminal(name, config, folder, json_output, is_written=as_written)


def _resume_from_latest(config: TrainJob) -> None:
    """Resume from the latest checkpoint of this run, not from where the run started."""
    if config.resume is None or RunFolder(config.out).latest_checkpoint():
        config.resume = "auto"


@commands.command()
def runs(
    root: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("lora_output"), json_output: Json = False
) -> None:
    """List the runs below a folder, newest first."""
    found = list_runs(root)
    rows = [
        {"run": str(r.folder), "job": r.job, "state": r.state, "epoch": r.epoch, "step": r.step, "loss": r.loss}
        for r in found
    ]
    if json_output:
        return print_json({"ok": True, "runs": rows})
    for row in rows or [{"run": f"No runs in {root}"}]:
        typer.echo("  ".join(f"{value}" for value in row.values() if value is not None))
    return None
