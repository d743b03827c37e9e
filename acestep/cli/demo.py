"""The command that runs the complete workflow on a tiny model: demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acestep.cli.console import Json, print_result, print_status

commands = typer.Typer()


@commands.command()
def demo(
    workdir: Annotated[Path, typer.Option(help="Folder for everything the demo writes.")] = Path("demo_output"),
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 120,
    json_output: Json = False,
) -> None:
    """Run the complete workflow on a tiny model and generated songs: scan, preprocess, train, export, generate."""
    from acestep.demo.run import run_demo

    print_result(run_demo(workdir, steps=steps, write_line=print_status), json_output)
