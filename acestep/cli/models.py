"""Commands for base models: download, make-tiny."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from acestep.cli.console import Json, print_result, print_status

Variant = Literal["turbo", "base", "xl-base"]

commands = typer.Typer()


@commands.command()
def download(
    names: Annotated[list[str], typer.Argument(help="Names of models; 'download list' shows them.")],
    root: Annotated[Path | None, typer.Option(help="Checkpoints folder.")] = None,
    source: Annotated[
        Literal["auto", "huggingface", "modelscope"], typer.Option(help="Hub to download from; auto tries both.")
    ] = "auto",
    json_output: Json = False,
) -> None:
    """Download models and verify that they are complete. 'download list' shows the names."""
    from acestep.core.paths import PROJECT
    from acestep.models.catalog import CATALOG

    if names == ["list"]:
        models = {model.name: f"{model.about} ({model.size_gb:.1f} GB)" for model in CATALOG}
        return print_result(models, json_output)
    from acestep.models.download import download as fetch

    folders = fetch(
        names, root or PROJECT / "checkpoints", source=source, on_progress=lambda event: print_status(str(event))
    )
    return print_result({"folders": [str(folder) for folder in folders]}, json_output)


@commands.command("make-tiny")
def make_tiny(
    folder: Annotated[Path, typer.Argument(help="Folder to write the models to.")],
    variant: Annotated[Variant, typer.Option(help="Architecture of the model.")] = "turbo",
    json_output: Json = False,
) -> None:
    """Create tiny models with the real architecture and seeded random weights, for tests and trials."""
    from acestep.models.tiny import create_tiny_checkpoint

    print_result({"checkpoint": str(create_tiny_checkpoint(folder, variant))}, json_output)
