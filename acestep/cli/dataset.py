"""Commands that build a dataset: scan, split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from acestep.cli.console import Json, print_result, print_status
from acestep.core.events import describe

commands = typer.Typer()


@commands.command()
def scan(
    audio_dir: Annotated[Path, typer.Argument(help="Folder of audio files, searched recursively.")],
    tag: Annotated[str, typer.Option(help="Activation tag: the word that triggers the style in a prompt.")],
    out: Annotated[Path, typer.Option(help="Dataset file to write.")] = Path("datasets/my_lora_dataset.json"),
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "my_lora_dataset",
    tag_position: Annotated[
        Literal["prepend", "append", "replace"],
        typer.Option(help="Put the tag before the caption, after it, or in its place."),
    ] = "prepend",
    json_output: Json = False,
) -> None:
    """Find audio files and their labels, and write a dataset file."""
    from acestep.dataset.scan import scan_folder
    from acestep.dataset.store import write_dataset

    found = scan_folder(audio_dir, name=name, custom_tag=tag, tag_position=tag_position)
    for problem in found.problems:
        print_status(f"{problem.path}: {describe(problem.message, problem.hint)}")
    write_dataset(out, found.dataset)
    samples = found.dataset.samples
    unlabelled = [sample.filename for sample in samples if not sample.labeled]
    result = {"dataset": str(out), "songs": len(samples), "labelled": len(samples) - len(unlabelled)}
    print_result({**result, "unlabelled": unlabelled, "problems": [str(p.path) for p in found.problems]}, json_output)


@commands.command()
def split(
    audio_dir: Annotated[Path, typer.Argument(help="Folder of long recordings.")],
    out: Annotated[Path, typer.Argument(help="Folder for the segments.")],
    seconds: Annotated[int, typer.Option(help="Length of a segment.", min=10, max=600)] = 30,
    at: Annotated[
        Literal["exact", "silence", "bar"],
        typer.Option(help="Cut at exactly this length, or before it in the last pause or at the last bar line."),
    ] = "exact",
    json_output: Json = False,
) -> None:
    """Split long recordings into segments, each with the labels of its recording."""
    from acestep.dataset.split_songs import split_songs

    def _print_progress(done: int, total: int, name: str) -> None:
        print_status(f"[{done}/{total}] {name}")

    result = split_songs(audio_dir, out, seconds, at=at, on_progress=_print_progress)
    print_result({"pieces": [str(path) for path in result.segments], "left_out": result.left_out}, json_output)
