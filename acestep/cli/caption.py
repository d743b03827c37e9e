"""The command that labels audio files: caption."""

from __future__ import annotations

from typing import Annotated

import typer

from acestep.captioning.configs import CaptionJob, backend_names, use_backend
from acestep.cli.console import Json, run_in_terminal
from acestep.cli.options import config_command
from acestep.core.errors import DatasetError
from acestep.core.untrusted import is_folder

commands = typer.Typer()


@config_command(commands, CaptionJob, arguments=("audio_dir",), exclude=("only",))
def caption(
    config: CaptionJob,
    backend: Annotated[str | None, typer.Option(help=f"Use one backend: {', '.join(backend_names())}.")] = None,
    json_output: Json = False,
) -> None:
    """Caption, analyze and transcribe the audio files of a folder. Labels are written next to each file."""
    if not is_folder(config.audio_dir):
        raise DatasetError(f"{config.audio_dir} is not a folder", hint="Choose the folder with the audio files.")
    if backend is not None:
        use_backend(config, backend)
    run_in_terminal("caption", config, config.audio_dir / ".captioning", json_output)
