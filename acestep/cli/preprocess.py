"""The command that encodes a dataset into tensors: preprocess."""

from __future__ import annotations

import typer

from acestep.cli.console import Json, run_in_terminal
from acestep.cli.options import config_command
from acestep.preprocessing.configs import PreprocessJob

commands = typer.Typer()


@config_command(commands, PreprocessJob, arguments=("source",))
def preprocess(config: PreprocessJob, json_output: Json = False) -> None:
    """Encode audio files and their labels into training tensors."""
    run_in_terminal("preprocess", config, config.folder, json_output)
