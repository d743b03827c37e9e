"""Commands that measure throughput: bench train, bench preprocess."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from acestep.cli.console import Json, print_json, print_status
from acestep.cli.options import help_of
from acestep.cli.train import Overrides, Preset
from acestep.core.config import parse
from acestep.core.errors import ConfigError
from acestep.preprocessing.configs import PreprocessJob
from acestep.training.configs import TrainJob
from acestep.training.parsing import train_job_from_flags

if TYPE_CHECKING:
    from acestep.benchmark import Speed

commands = typer.Typer(help="Benchmark settings against each other on this computer.")

Checkpoint = Annotated[str, typer.Option(help=help_of(TrainJob, "checkpoint"))]
Against = Annotated[
    list[str] | None,
    typer.Option(help="Settings to compare with: key=value pairs separated by spaces. May be repeated."),
]
Rounds = Annotated[int, typer.Option(help="Number of rounds; each measures every variant once.", min=1, max=100)]
_FIRST = "as given"


@commands.command("train")
def train(
    tensor_dir: Annotated[Path, typer.Argument(help=help_of(TrainJob, "tensor_dir"))],
    checkpoint: Checkpoint,
    against: Against = None,
    preset: Preset = None,
    set_: Overrides = None,
    steps: Annotated[int, typer.Option(help="Measured optimizer steps per round.", min=1, max=1000)] = 8,
    rounds: Rounds = 3,
    device: Annotated[str, typer.Option(help=help_of(TrainJob, "device"))] = "auto",
    json_output: Json = False,
) -> None:
    """Benchmark training steps. Nothing is saved."""
    with TemporaryDirectory() as unused:  # a job needs a folder; nothing is written to it
        flags = {"tensor_dir": tensor_dir, "checkpoint": checkpoint, "out": Path(unused) / "run", "device": device}
        variants = {
            name: train_job_from_flags(flags, None, [*(set_ or []), *changes], preset)
            for name, changes in _variants(against)
        }
    from acestep.benchmark import bench_training

    _print_speeds(bench_training(variants, steps=steps, rounds=rounds, on_round=print_status), "step", json_output)


@commands.command("preprocess")
def preprocess(
    source: Annotated[Path, typer.Argument(help=help_of(PreprocessJob, "source"))],
    checkpoint: Checkpoint,
    against: Against = None,
    set_: Overrides = None,
    rounds: Rounds = 3,
    json_output: Json = False,
) -> None:
    """Benchmark preprocessing, model loading included. The tensors are discarded."""
    variants = {}
    for name, changes in _variants(against):
        settings = dict(_pair(setting) for setting in [*(set_ or []), *changes])
        variants[name] = parse(PreprocessJob, {"source": source, "checkpoint": checkpoint, **settings})
    from acestep.benchmark import bench_preprocessing

    _print_speeds(bench_preprocessing(variants, rounds=rounds, on_round=print_status), "run", json_output)


def _variants(against: list[str] | None) -> list[tuple[str, list[str]]]:
    return [(_FIRST, []), *((text, text.split()) for text in against or [])]


def _pair(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError([f"{setting!r} is not key=value"])
    return key, value


def _print_speeds(speeds: Sequence[Speed], unit: str, json_output: bool) -> None:
    if json_output:
        return print_json({"ok": True, "variants": [asdict(speed) for speed in speeds]})
    for speed in speeds:
        peak = "" if speed.peak_gb is None else f", peak {speed.peak_gb:.2f} GB"
        typer.echo(
            f"{speed.name}: {speed.ratio:.2f} x, {speed.songs_per_hour:.0f} songs/h, "
            f"{speed.median_s:.3f} s/{unit} (interquartile range {speed.spread:.0%}){peak}"
        )
    return None
