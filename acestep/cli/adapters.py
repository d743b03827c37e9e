"""The commands for finished adapters: to other programs, from them, into the model, and proof that they learned."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from acestep.console import Json, answer, do
from acestep.core.config import parse
from acestep.core.errors import ConfigError
from acestep.exporting.configs import MergeJob, ProveJob
from acestep.exporting.targets import ALL, TARGETS
from acestep.flags import add_command

Adapter = Annotated[Path, typer.Argument(help="Run folder, adapter folder or file.")]
Out = Annotated[Path, typer.Option(help="Folder to write.")]
Base = Annotated[str | None, typer.Option(help="Base model: name or folder. Else the one that the adapter names.")]
Rank = Annotated[int | None, typer.Option(help="Make it a LoRA of this rank.", min=1, max=4096)]


adapter_commands = typer.Typer()


@adapter_commands.command()
def export(
    adapter: Adapter,
    out: Annotated[Path | None, typer.Option(help="Folder to write. [default: exports/RUN]")] = None,
    to: Annotated[
        str, typer.Option(help=f"The program that will read it: {', '.join(TARGETS.names)} or {ALL}.")
    ] = "acestep",
    checkpoint: Base = None,
    rank: Rank = None,
    strength: Annotated[float, typer.Option(help="Baked in: 1 is as trained.")] = 1.0,
    dtype: Annotated[Literal["bf16", "fp32"] | None, typer.Option(help="Else as the adapter has it.")] = None,
    prompt: Annotated[str, typer.Option(help="Sample prompt for the model card.")] = "",
    license: Annotated[str, typer.Option(help="Licence for the model card.")] = "",
    json_output: Json = False,
) -> None:
    """Write a trained adapter for another program and check the result by reading it as that program will."""
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
    answer(result if json_output else _lines(result), json_output)


@adapter_commands.command("import")
def import_(
    adapter: Annotated[Path, typer.Argument(help="File or folder of another program.")],
    out: Out,
    checkpoint: Annotated[str | None, typer.Option(help="Model it was made for, if it does not tell.")] = None,
    rank: Rank = None,
    trigger_word: Annotated[str, typer.Option(help="The word that calls it, if it does not tell.")] = "",
    json_output: Json = False,
) -> None:
    """Read an adapter of another trainer, ComfyUI or diffusers and write it as a folder of ours."""
    from acestep.exporting.importers import import_adapter

    result = import_adapter(adapter, out=out, checkpoint=checkpoint, rank=rank, trigger_word=trigger_word)
    answer(result, json_output)


@adapter_commands.command()
def resize(
    adapter: Adapter,
    out: Out,
    rank: Annotated[int, typer.Option(help="The new rank.", min=1, max=4096)],
    checkpoint: Base = None,
    json_output: Json = False,
) -> None:
    """Make an adapter the nearest LoRA of another rank, and tell how much of it is lost."""
    from acestep.exporting.change import resize_adapter

    answer(resize_adapter(adapter, rank, out=out, checkpoint=checkpoint), json_output)


@adapter_commands.command()
def blend(
    adapters: Annotated[list[str], typer.Argument(help="Adapters, each with its weight: FOLDER or FOLDER=0.5")],
    out: Out,
    rank: Rank = None,
    checkpoint: Base = None,
    json_output: Json = False,
) -> None:
    """Make one LoRA of several adapters, each times its weight."""
    from acestep.exporting.change import blend_adapters

    pairs = [_weighted(text) for text in adapters]
    answer(blend_adapters(pairs, out=out, rank=rank, checkpoint=checkpoint), json_output)


def merge(config: MergeJob, json_output: bool) -> None:
    """Make an adapter part of its model: a new checkpoint, written weight by weight."""
    do("merge", config, _job_folder(config.out), json_output)


add_command(adapter_commands, "merge", MergeJob, merge, extra={"json_output": (Json, False)})


def prove(config: ProveJob, prompt: list[str] | None, seed: list[int] | None, json_output: bool) -> None:
    """Did it learn anything? The model with and without the adapter, in figures and sound."""
    lists = {"prompts": prompt or config.prompts, "seeds": seed or config.seeds}
    wanted = parse(ProveJob, {**config.model_dump(), **lists})
    do("prove", wanted, _job_folder(config.out), json_output)


several = "May be repeated."
add_command(
    adapter_commands,
    "prove",
    ProveJob,
    prove,
    leave_out=("prompts", "seeds"),
    extra={
        "prompt": (Annotated[list[str] | None, typer.Option(help=f"What to ask for. {several}")], None),
        "seed": (Annotated[list[int] | None, typer.Option(help=f"Two or more. {several}")], None),
        "json_output": (Json, False),
    },
)


def _lines(result: dict[str, Any]) -> dict[str, Any]:
    """One line a program where several were written for."""
    if "targets" not in result:
        return result
    written = {to: f"{each['adapter']} ({each['form']})" for to, each in result["targets"].items()}
    notes = {f"{to} note": note for to, each in result["targets"].items() for note in each["notes"]}
    return {**written, **notes, **{f"{to} refused": reason for to, reason in result["refused"].items()}}


def _job_folder(out: Path) -> Path:
    """Beside ``out``, which is replaced as a whole when the job ends well."""
    return out.with_name(f".{out.name}.job")


def _weighted(text: str) -> tuple[Path, float]:
    """``folder=0.5`` -> folder and 0.5; without a number the weight is 1."""
    path, mark, weight = text.rpartition("=")
    if not mark:
        return Path(text), 1.0
    try:
        return Path(path), float(weight)
    except ValueError:
        raise ConfigError(f"{weight!r} is no weight for {path}", hint="Write it as FOLDER=0.5.") from None
