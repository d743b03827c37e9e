"""Commands that measure throughput: bench train, bench preprocess."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Literal

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
    from acestep.benchmark.compare import Speed

commands = typer.Typer(help="Benchmark settings against each other on this computer.")

Checkpoint = Annotated[str | None, typer.Option(help=help_of(TrainJob, "checkpoint"))]
Against = Annotated[
    list[str] | None,
    typer.Option(
        help="Settings to compare with: key=value pairs separated by spaces. May be repeated. plain: the same work "
        "without this program's own code."
    ),
]
Rounds = Annotated[int, typer.Option(help="Number of rounds; each measures every variant once.", min=1, max=100)]
Size = Literal["tiny", "small", "2b", "xl"]
FIRST = "as given"
PLAIN = "plain"  # acestep.benchmark.compare.PLAIN, the import of which would take seconds

# What --size measures unless --set changes it.
_SEEDED_SETTINGS = (
    "mixed_precision=bf16",
    "lora.r=64",
    "lora.dropout=0.1",
    "gradient_accumulation_steps=1",
    "gradient_checkpointing=off",
    "max_latent_length=0",
    "validation_percent=0",
)
_SEEDED_SONGS = 8


@commands.command("train")
def train(
    tensor_dir: Annotated[Path | None, typer.Argument(help=help_of(TrainJob, "tensor_dir"))] = None,
    checkpoint: Checkpoint = None,
    size: Annotated[
        Size | None, typer.Option(help="Measure seeded weights of this size and songs of noise, without any files.")
    ] = None,
    frames: Annotated[int, typer.Option(help="With --size: length of the songs, 25 frames per second.", min=2)] = 1500,
    unequal: Annotated[
        bool, typer.Option("--unequal", help="With --size: songs of 50 to 100 % of that length.")
    ] = False,
    against: Against = None,
    preset: Preset = None,
    set_: Overrides = None,
    steps: Annotated[int, typer.Option(help="Measured optimizer steps per round.", min=1, max=1000)] = 8,
    rounds: Rounds = 3,
    device: Annotated[str, typer.Option(help=help_of(TrainJob, "device"))] = "auto",
    json_output: Json = False,
) -> None:
    """Benchmark training steps, of a dataset and a model or of seeded ones (--size). Nothing is saved."""
    require_inputs(size, tensor_dir, checkpoint, "a tensor folder")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if size is not None:
            tensor_dir, checkpoint = folder / "tensors", str(folder / f"acestep-v15-{size}")
        flags = {"tensor_dir": tensor_dir, "checkpoint": checkpoint, "out": folder / "run", "device": device}
        settings = [*(_SEEDED_SETTINGS if size else ()), *(set_ or [])]
        variants = {
            name: train_job_from_flags(flags, None, [*settings, *changes], preset)
            for name, changes in variants_of(against)
        }
        if size is not None:
            _write_seeded(variants, size, frames, unequal)
        from acestep.benchmark.train import bench_training

        speeds = bench_training(variants, steps=steps, rounds=rounds, on_round=print_status)
    print_speeds(speeds, "step", json_output)


def _write_seeded(variants: Mapping[str, TrainJob], size: Size, frames: int, unequal: bool) -> None:
    """Write the base model and the songs that the variants name, with songs for the largest step."""
    from acestep.benchmark.seeded_models import write_seeded_model, write_seeded_tensors

    job = next(iter(variants.values()))
    print_status(f"writing seeded weights of size {size}")
    write_seeded_model(Path(job.checkpoint), size)
    needed = max(job.training.batch_size * job.training.gradient_accumulation_steps for job in variants.values())
    write_seeded_tensors(
        job.tensor_dir, Path(job.checkpoint), songs=max(_SEEDED_SONGS, needed), frames=frames, unequal=unequal
    )


@commands.command("preprocess")
def preprocess(
    source: Annotated[Path | None, typer.Argument(help=help_of(PreprocessJob, "source"))] = None,
    checkpoint: Checkpoint = None,
    size: Annotated[
        Literal["tiny"] | None, typer.Option(help="Measure the tiny models and songs of noise, without any files.")
    ] = None,
    songs: Annotated[int, typer.Option(help="With --size: number of songs.", min=1, max=1000)] = 4,
    seconds: Annotated[float, typer.Option(help="With --size: length of the songs.", min=1, max=600)] = 10,
    against: Against = None,
    set_: Overrides = None,
    rounds: Rounds = 3,
    json_output: Json = False,
) -> None:
    """Benchmark preprocessing, model loading included. The tensors are discarded."""
    require_inputs(size, source, checkpoint, "an audio folder or dataset file")
    with TemporaryDirectory() as temporary:
        if size is not None:
            source, checkpoint = Path(temporary) / "songs", str(_write_songs(Path(temporary), songs, seconds))
        variants = {}
        for name, changes in variants_of(against):
            settings = dict(pair(setting) for setting in [*(set_ or []), *changes])
            values = {"source": source, "checkpoint": checkpoint, "out": Path(temporary) / "tensors", **settings}
            variants[name] = parse(PreprocessJob, values)
        from acestep.benchmark.preprocess import bench_preprocessing

        speeds = bench_preprocessing(variants, rounds=rounds, on_round=print_status)
    print_speeds(speeds, "run", json_output)


def _write_songs(folder: Path, songs: int, seconds: float) -> Path:
    """Write ``songs`` songs and the tiny models into ``folder``; gives the folder of the base model."""
    from acestep.benchmark.seeded_songs import write_seeded_songs
    from acestep.models.tiny import create_tiny_checkpoint

    write_seeded_songs(folder / "songs", songs=songs, seconds=seconds)
    return create_tiny_checkpoint(folder)


def require_inputs(size: str | None, source: Path | None, checkpoint: str | None, needed: str) -> None:
    """Raise ConfigError unless there are ``source`` and ``checkpoint``, or a ``size`` instead of both."""
    if (source is None or checkpoint is None) if size is None else (source or checkpoint):
        raise ConfigError(
            [f"needed is either {needed} and --checkpoint, or --size"],
            hint="Add --size tiny, or the path of your files and the name of a base model.",
        )


def variants_of(against: list[str] | None) -> list[tuple[str, list[str]]]:
    """The name of each variant and the settings that it changes."""
    return [(FIRST, []), *((text, [] if text == PLAIN else text.split()) for text in against or [])]


def pair(setting: str) -> tuple[str, str]:
    """Split ``key=value``. Raises ConfigError."""
    key, equals, value = setting.partition("=")
    if not equals:
        raise ConfigError([f"{setting!r} is not key=value"])
    return key, value


def print_speeds(speeds: Sequence[Speed], unit: str, json_output: bool) -> None:
    """Print the result of a benchmark; ``unit`` is what ``median_s`` is the time of."""
    if json_output:
        return print_json({"ok": True, "variants": [asdict(speed) for speed in speeds]})
    for speed in speeds:
        typer.echo(_line(speed, unit))
    return None


def _line(speed: Speed, unit: str) -> str:
    """The speed of one variant for a person."""
    parts = [
        f"{speed.ratio:.2f} x",
        f"{speed.songs_per_hour:.0f} songs/h",
        f"{speed.median_s:.3f} s/{unit} (interquartile range {speed.spread:.0%})",
    ]
    if speed.speedup is not None and speed.name != PLAIN:
        parts.insert(1, f"{speed.speedup:.2f} x plain")
    if speed.peak_gb is not None:
        parts.append(f"peak {speed.peak_gb:.2f} GB")
    if speed.flop_utilization is not None:
        parts.append(f"{speed.flop_utilization:.0%} of a matrix product's FLOP/s")
    parts += [f"{value:,} {name}" for name, value in _counts(speed) if value is not None]
    parts += [f"{name} {seconds:.3f} s" for name, seconds in speed.details.items()]
    return f"{speed.name}: {', '.join(parts)}"


def _counts(speed: Speed) -> list[tuple[str, int | None]]:
    return [
        ("dispatches per micro-batch", speed.dispatches),
        ("kernels per micro-batch", speed.kernels),
        ("host waits per step", speed.host_waits),
    ]
