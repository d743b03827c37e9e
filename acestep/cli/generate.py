"""The command that generates audio: generate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from acestep.cli.console import Json, print_result, print_status
from acestep.cli.options import config_command
from acestep.models.configs import GenerationConfig

commands = typer.Typer()


@config_command(commands, GenerationConfig)
def generate(
    config: GenerationConfig,
    checkpoint: Annotated[str, typer.Option(help="Name or folder of the model.")],
    out: Annotated[Path, typer.Option(help="File to write: .wav, .flac, .mp3, .m4a, .aac, .opus or .ogg.")],
    adapter: Annotated[Path | None, typer.Option(help="Adapter folder or file.")] = None,
    strength: Annotated[
        float, typer.Option(help="Scale of the adapter: 0 is the base model, 1 the adapter as trained.")
    ] = 1.0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps or xpu.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto, fp32, bf16 or fp16. With fp16, encoders and VAE compute in fp32.")
    ] = "auto",
    json_output: Json = False,
) -> None:
    """Generate music from a text prompt, optionally with an adapter."""
    from acestep.audio.files import write_audio
    from acestep.models.checkpoint import find_checkpoint

    find_checkpoint(checkpoint)  # a wrong name fails before torch is imported
    from acestep.handler import AceStepHandler

    handler = AceStepHandler(checkpoint, device=device, dtype=dtype)
    print_status(f"{handler.checkpoint.name} on {handler.device.value} ({handler.device.reason})")
    print_status(f"precision {str(handler.dtype.value).removeprefix('torch.')} ({handler.dtype.reason})")
    if adapter is not None:
        handler.load_adapter(adapter, strength=strength)
    audio = handler.generate(config, on_step=lambda step, steps: print_status(f"[{step}/{steps}]"))
    write_audio(out, audio)
    print_result({"audio": str(out), "seconds": audio.shape[1] / 48_000, **handler.adapter_status()}, json_output)
