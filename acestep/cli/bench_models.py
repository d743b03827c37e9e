"""Commands that measure what surrounds training: bench generate, bench load, bench start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import typer

from acestep.cli.bench import PLAIN, Against, Checkpoint, Rounds, Size, pair, print_speeds, variants_of
from acestep.cli.bench import commands as commands
from acestep.cli.console import Json, print_status
from acestep.cli.options import help_of
from acestep.core.config import parse
from acestep.core.errors import ConfigError
from acestep.models.configs import GenerationConfig
from acestep.training.configs import TrainJob

Device = Annotated[str, typer.Option(help=help_of(TrainJob, "device"))]
PlainOnly = Annotated[
    Literal["plain"] | None, typer.Option(help="plain: compare with the same work without this program's own code.")
]


@commands.command("generate")
def generate(
    checkpoint: Checkpoint = None,
    size: Annotated[Literal["tiny"] | None, typer.Option(help="Measure the tiny model, without any files.")] = None,
    against: Against = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One option of generate, key=value.")] = None,
    rounds: Rounds = 3,
    device: Device = "auto",
    json_output: Json = False,
) -> None:
    """Benchmark the generation of a song, model loading excluded."""
    variants: dict[str, GenerationConfig] = {}
    for name, changes in variants_of(against):
        values: dict[str, Any] = dict(pair(setting) for setting in [*(set_ or []), *changes])
        variants[name] = parse(GenerationConfig, values)
    with _model(checkpoint, size) as model:
        from acestep.benchmark.generate import bench_generation

        speeds = bench_generation(variants, model, device=device, rounds=rounds, on_round=print_status)
    print_speeds(speeds, "song", json_output)


@commands.command("load")
def load(
    checkpoint: Checkpoint = None,
    size: Annotated[Size | None, typer.Option(help="Measure seeded weights of this size, without any files.")] = None,
    against: PlainOnly = None,
    rounds: Rounds = 3,
    device: Device = "auto",
    json_output: Json = False,
) -> None:
    """Benchmark loading the decoder of a base model."""
    with _model(checkpoint, size) as model:
        from acestep.benchmark.load import bench_loading

        plain = against == PLAIN
        speeds = bench_loading(model, plain=plain, device=device, rounds=rounds, on_round=print_status)
    print_speeds(speeds, "load", json_output)


@commands.command("start")
def start(against: PlainOnly = None, rounds: Rounds = 3, json_output: Json = False) -> None:
    """Benchmark opening the trainer page, and the import of torch."""
    from acestep.benchmark.start import bench_start

    print_speeds(bench_start(plain=against == PLAIN, rounds=rounds, on_round=print_status), "start", json_output)


@contextmanager
def _model(checkpoint: str | None, size: str | None) -> Iterator[str | Path]:
    """The base model to measure: the given one, or a seeded one in a temporary folder."""
    if (checkpoint is None) == (size is None):
        raise ConfigError(["either --checkpoint or --size is needed"], hint="Add --size tiny, or name a base model.")
    if checkpoint is not None:
        yield checkpoint
        return
    with TemporaryDirectory() as folder:
        print_status(f"writing seeded weights of size {size}")
        yield _write_model(Path(folder), size)


def _write_model(folder: Path, size: Any) -> Path:
    if size == "tiny":
        from acestep.models.tiny import create_tiny_checkpoint

        return create_tiny_checkpoint(folder)
    from acestep.benchmark.seeded_models import write_seeded_model

    write_seeded_model(folder / f"acestep-v15-{size}", size)
    return folder / f"acestep-v15-{size}"
