"""Commands that work on preprocessed tensors: train, estimate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acestep.cli.console import Json, ignore_line, print_status, run_in_terminal
from acestep.cli.options import config_command, help_of, option_names
from acestep.core.launcher import detect_launch
from acestep.training.configs import DEFAULT_PRESET, TrainingConfig, TrainJob
from acestep.training.evaluation.configs import EstimateJob
from acestep.training.parsing import resume_of_launched, train_job_from_flags

Preset = Annotated[
    str | None,
    typer.Option(
        help=f"Preset to start from: a name or a JSON file. Default: {DEFAULT_PRESET}, "
        "with the number of epochs recommended for the number of songs."
    ),
]
AdapterType = Annotated[
    str | None,
    typer.Option("--adapter", "--adapter-type", help="Adapter type; presets have settings for each. Default: lora."),
]
Epochs = Annotated[int | None, typer.Option(help=help_of(TrainingConfig, "max_epochs"))]
ConfigFile = Annotated[Path | None, typer.Option(help="JSON file with settings.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="One setting, key=value. May be repeated.")]

commands = typer.Typer()


@config_command(commands, TrainJob, arguments=("tensor_dir",))
def train(
    job: TrainJob,
    adapter: AdapterType = None,
    epochs: Epochs = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    json_output: Json = False,
) -> None:
    """Train an adapter on preprocessed tensors. 'settings' lists what --set accepts."""
    launch = detect_launch()
    if launch.launcher:
        job.resume = resume_of_launched(job)
    options = {name: getattr(job, name) for name in option_names(TrainJob)}
    settings = [*given(adapter_type=adapter, max_epochs=epochs), *(set_ or [])]
    job = train_job_from_flags(options, config, settings, preset, print_status if launch.is_main else ignore_line)
    run_in_terminal("train", job, job.folder, json_output)


def given(**settings: str | int | None) -> list[str]:
    """The settings that are not None, in the form of ``--set``."""
    return [f"{name}={value}" for name, value in settings.items() if value is not None]


@config_command(commands, EstimateJob, arguments=("tensor_dir",))
def estimate(config: EstimateJob, json_output: Json = False) -> None:
    """Rank the modules of a model by gradient sensitivity to the dataset, and suggest a rank for each."""
    run_in_terminal("estimate", config, config.folder, json_output)
