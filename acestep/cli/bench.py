"""The commands that measure speed: the settings given, and others against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from acestep.console import Json, print_json, say
from acestep.core.config import parse
from acestep.core.errors import ConfigError
from acestep.preprocessing.configs import PreprocessJob
from acestep.training.configs import train_job_from_flags

if TYPE_CHECKING:
    from acestep.bench import Speed

bench_commands = typer.Typer(help="Measure speed here: settings against each other, in turn, in one go.")

Checkpoint = Annotated[str, typer.Option(help="Name or folder of the model.")]
Against = Annotated[
    list[str] | None,
    typer.Option(help="Settings to compare with, key=value, several with spaces between. May be repeated."),
]
Rounds = Annotated[int, typer.Option(help="How often the variants take turns.", min=1, max=100)]
_FIRST = "as given"


@bench_commands.command("train")
def train(
    tensor_dir: Annotated[Path, typer.Argument(help="Folder of preprocessed tensors.")],
    checkpoint: Checkpoint,
    against: Against = None,
    preset: Annotated[str | None, typer.Option(help="Settings to begin with. [default: recommended]")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, key=value. May be repeated.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of each turn that count.", min=1, max=1000)] = 8,
    rounds: Rounds = 3,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    json_output: Json = False,
) -> None:
    """Measure steps of training. Nothing is kept of what is trained."""
    with TemporaryDirectory() as unused:  # a job needs a folder, this one will never run
        flags = {"tensor_dir": tensor_dir, "checkpoint": checkpoint, "out": Path(unused) / "run", "device": device}
        variants = {
            name: train_job_from_flags(flags, None, [*(set_ or []), *changes], preset)
            for name, changes in _variants(against)
        }
    from acestep.bench import bench_training

    _tell(bench_training(variants, steps=steps, rounds=rounds, on_round=say), "step", json_output)


@bench_commands.command("preprocess")
def preprocess(
    source: Annotated[Path, typer.Argument(help="A dataset JSON, or a folder of songs.")],
    checkpoint: Checkpoint,
    against: Against = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, key=value. May be repeated.")] = None,
    rounds: Rounds = 3,
    json_output: Json = False,
) -> None:
    """Measure preprocessing, loading of models included. The tensors are thrown away."""
    variants = {}
    for name, changes in _variants(against):
        settings = dict(_pair(setting) for setting in [*(set_ or []), *changes])
        variants[name] = parse(PreprocessJob, {"source": source, "checkpoint": checkpoint, **settings})
    from acestep.bench import bench_preprocessing

    _tell(bench_preprocessing(variants, rounds=rounds, on_round=say), "run", json_output)


def _variants(against: list[str] | None) -> list[tuple[str, list[str]]]:
    return [(_FIRST, []), *((text, text.split()) for text in against or [])]


def _pair(setting: str) -> tuple[str, str]:
    key, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError([f"{setting!r} is not of the form key=value"])
    return key, value


def _tell(speeds: Sequence[Speed], unit: str, json_output: bool) -> None:
    if json_output:
        return print_json({"ok": True, "variants": [asdict(speed) for speed in speeds]})
    for speed in speeds:
        peak = "" if speed.peak_gb is None else f", peak {speed.peak_gb:.2f} GB"
        typer.echo(
            f"{speed.name}: {speed.ratio:.2f} x, {speed.songs_per_hour:.0f} songs an hour, "
            f"{speed.median_s:.3f} s a {unit} (middle half within {speed.spread:.0%}){peak}"
        )
    return None
