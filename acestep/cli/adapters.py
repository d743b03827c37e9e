"""Commands for trained adapters: export, import, resize, blend, merge, prove."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from acestep.cli.console import Json, print_result, run_in_terminal
from acestep.cli.options import config_command
from acestep.core.errors import ConfigError
from acestep.exporting.configs import MergeJob, ProveJob
from acestep.exporting.targets import ALL, TARGETS

Adapter = Annotated[Path, typer.Argument(help="Run folder, adapter folder or file.")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Base = Annotated[str | None, typer.Option(help="Name or folder of the base model. Default: the one it was trained on.")]
Rank = Annotated[int | None, typer.Option(help="Convert to a LoRA of this rank.", min=1, max=4096)]

commands = typer.Typer()


@commands.command()
def export(
    adapter: Adapter,
    out: Annotated[Path | None, typer.Option(help="Folder to write. Default: exports/RUN.")] = None,
    to: Annotated[str, typer.Option(help=f"Program to export for: {', '.join(TARGETS.names)} or {ALL}.")] = "acestep",
    checkpoint: Base = None,
    rank: Rank = None,
    strength: Annotated[float, typer.Option(help="Scale of the exported adapter; 1 is as trained.")] = 1.0,
    dtype: Annotated[Literal["bf16", "fp32"] | None, typer.Option(help="Dtype. Default: that of the adapter.")] = None,
    prompt: Annotated[str, typer.Option(help="Example prompt for the model card.")] = "",
    license: Annotated[str, typer.Option(help="License for the model card.")] = "",
    json_output: Json = False,
) -> None:
    """Export an adapter for another program and verify the result by loading it the way that program does."""
    from acestep.adapters.files import find_adapter
    from acestep.exporting.package import export_adapter, run_name

    folder = out or Path("exports") / (to if to == ALL else run_name(find_adapter(adapter)))
    result = export_adapter(
        adapter,
        to,
        out=folder,
        checkpoint=checkpoint,
        rank=rank,
        strength=strength,
        dtype=dtype,
        prompt=prompt,
        license=license,
    )
    print_result(result if json_output else _lines(result), json_output)


@commands.command("import")
def import_(
    adapter: Annotated[Path, typer.Argument(help="Adapter file or folder of another program.")],
    out: Out,
    checkpoint: Annotated[str | None, typer.Option(help="Base model, if the file does not name one.")] = None,
    rank: Rank = None,
    trigger_word: Annotated[str, typer.Option(help="Trigger word, if the file does not name one.")] = "",
    json_output: Json = False,
) -> None:
    """Import an adapter from another trainer, ComfyUI or diffusers as an adapter folder of this program."""
    from acestep.exporting.importers import import_adapter

    result = import_adapter(adapter, out=out, checkpoint=checkpoint, rank=rank, trigger_word=trigger_word)
    print_result(result, json_output)


@commands.command()
def resize(
    adapter: Adapter,
    out: Out,
    rank: Annotated[int, typer.Option(help="Rank of the result.", min=1, max=4096)],
    checkpoint: Base = None,
    json_output: Json = False,
) -> None:
    """Approximate an adapter by a LoRA of another rank, and report the approximation error."""
    from acestep.exporting.resize_blend import resize_adapter

    print_result(resize_adapter(adapter, rank, out=out, checkpoint=checkpoint), json_output)


@commands.command()
def blend(
    adapters: Annotated[list[str], typer.Argument(help="Adapters with optional weights: FOLDER or FOLDER=0.5.")],
    out: Out,
    rank: Rank = None,
    checkpoint: Base = None,
    json_output: Json = False,
) -> None:
    """Combine adapters into one LoRA, the weighted sum of all."""
    from acestep.exporting.resize_blend import blend_adapters

    pairs = [_weighted(text) for text in adapters]
    print_result(blend_adapters(pairs, out=out, rank=rank, checkpoint=checkpoint), json_output)


@config_command(commands, MergeJob)
def merge(config: MergeJob, json_output: Json = False) -> None:
    """Merge an adapter into its base model and write a new model."""
    run_in_terminal("merge", config, _job_folder(config.out), json_output, writes=config.out)


@config_command(commands, ProveJob)
def prove(config: ProveJob, json_output: Json = False) -> None:
    """Evaluate what an adapter learned: the model with and without it, with metrics and audio."""
    run_in_terminal("prove", config, _job_folder(config.out), json_output, writes=config.out)


def _lines(result: dict[str, Any]) -> dict[str, Any]:
    """One line per program if the export was for several."""
    if "targets" not in result:
        return result
    written = {to: f"{each['adapter']} ({each['form']})" for to, each in result["targets"].items()}
    notes = {f"{to} note": "; ".join(each["notes"]) for to, each in result["targets"].items() if each["notes"]}
    return {**written, **notes, **{f"{to} refused": reason for to, reason in result["refused"].items()}}


def _job_folder(out: Path) -> Path:
    """A folder in the user's cache: ``out`` is replaced as a whole, and nothing else is left beside it.

    It is the same for the same ``out``, so that its lock prevents two jobs from writing one folder.
    """
    from platformdirs import user_cache_path

    key = hashlib.sha256(os.fsencode(out.resolve())).hexdigest()[:16]
    return user_cache_path("acestep-trainer") / "jobs" / key


def _weighted(text: str) -> tuple[Path, float]:
    """``folder=0.5`` -> folder and 0.5. The default weight is 1."""
    path, mark, weight = text.rpartition("=")
    if not mark:
        return Path(text), 1.0
    try:
        return Path(path), float(weight)
    except ValueError:
        raise ConfigError(f"{weight!r} is not a valid weight for {path}", hint="Write it as FOLDER=0.5.") from None
