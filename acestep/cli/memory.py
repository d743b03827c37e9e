"""The command that estimates the peak device memory of a training run: memory. Imports neither torch nor a model."""

from __future__ import annotations

import json
import tempfile
from typing import Annotated, Any, Literal

import typer

from acestep.cli.console import Json, print_status
from acestep.cli.options import help_of
from acestep.cli.train import AdapterType, ConfigFile, Overrides, Preset, given
from acestep.core.errors import ConfigError
from acestep.core.system_memory import free_bytes
from acestep.models.checkpoint import find_checkpoint
from acestep.training.configs import TrainJob
from acestep.training.gpu_monitor import VRAMStatus, vram_status
from acestep.training.memory.advice import Advice, advise
from acestep.training.memory.automatic import Choices, choose
from acestep.training.memory.estimate import GIB, PARTS, estimate
from acestep.training.memory.previews import estimate_samples
from acestep.training.memory.spec import FAMILIES, FRAMES_PER_S, LONGEST_S, USUAL_TOKENS, MemorySpec, memory_spec
from acestep.training.parsing import train_job_from_flags

Family = Literal["2b", "xl"]
Device = Literal["cuda", "xpu", "mps", "cpu"]

commands = typer.Typer()


@commands.command()
def memory(
    checkpoint: Annotated[str | None, typer.Option(help=help_of(TrainJob, "checkpoint"))] = None,
    family: Annotated[Family | None, typer.Option(help="Instead of a model, only its family. Default: 2b.")] = None,
    adapter: AdapterType = None,
    preset: Preset = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    device: Annotated[Device, typer.Option(help="Device type to train on.")] = "cuda",
    longest: Annotated[float, typer.Option(help="Length of the longest song in seconds.", min=1, max=600)] = LONGEST_S,
    tokens: Annotated[
        int, typer.Option(help="Tokens of the longest caption and lyrics.", min=1, max=4096)
    ] = USUAL_TOKENS,
    free: Annotated[
        float | None, typer.Option(help="Free device memory in GB. Default: reported by nvidia-smi.", min=0)
    ] = None,
    bf16: Annotated[
        bool | None,
        typer.Option(help="Whether the GPU computes in bf16: not before RTX 30. Default: reported by nvidia-smi."),
    ] = None,
    json_output: Json = False,
) -> None:
    """Estimate the peak memory of a training run, and suggest settings to change if it does not fit."""
    if checkpoint is not None and family is not None:
        raise ConfigError(["--checkpoint and --family exclude each other"], hint="Use one of them.")
    model = FAMILIES[family or "2b"] if checkpoint is None else find_checkpoint(checkpoint).config
    with tempfile.TemporaryDirectory() as unused:  # a job needs folders; nothing is written to them
        flags = {"tensor_dir": unused, "checkpoint": checkpoint or "", "out": unused}
        settings = [*given(adapter_type=adapter), *(set_ or [])]
        job = train_job_from_flags(flags, config, settings, preset, print_status)
    status = vram_status() if device == "cuda" and (free is None or bf16 is None) else None
    spec = memory_spec(
        model,
        job.training,
        job.adapter,
        device=device,
        longest=round(longest * FRAMES_PER_S),
        tokens=tokens,
        bf16=bf16 if bf16 is not None else status is None or status.bf16,
    )
    room = _room(free, status, device)
    choices = choose(spec, room)
    found = _result(choices, room, [] if room is None else advise(spec, room))
    if job.samples.enabled:
        found["samples"] = _samples(choices.spec, room, job.samples.duration_s)
    typer.echo(json.dumps({"ok": True, **found}) if json_output else _as_text(choices, found))


def _room(free: float | None, status: VRAMStatus | None, device: Device) -> float | None:
    """Free bytes, or None if unknown."""
    if free is None and device == "cpu":
        return free_bytes()
    if free is None and status is not None:
        free = status.free_gb
    return None if free is None else free * GIB


def _result(choices: Choices, room: float | None, advice: list[Advice]) -> dict[str, Any]:
    result = estimate(choices.spec)
    return {
        "choices": {
            "gradient_checkpointing": {"value": choices.checkpointing, "reason": choices.checkpointing_reason},
            "base_precision": {"value": choices.base_precision, "reason": choices.base_reason},
        },
        "parts": {name: size / GIB for name, size in result.parts.items()},
        "unknown": list(result.unknown),
        "total": result.total / GIB,
        "free": None if room is None else room / GIB,
        "fits": None if room is None else result.fits(room),
        "advice": [
            {"change": one.text, "alone": one.alone.total / GIB, "together": one.together.total / GIB} for one in advice
        ],
    }


def _samples(spec: MemorySpec, room: float | None, duration_s: float) -> dict[str, Any]:
    """The estimate while an audio preview is generated."""
    result = estimate_samples(spec, duration_s)
    parts = {name: size / GIB for name, size in result.parts.items()}
    fits = None if room is None else result.fits(room)
    return {"seconds": duration_s, "parts": parts, "total": result.total / GIB, "fits": fits}


def _as_text(choices: Choices, found: dict[str, Any]) -> str:
    """The estimate as text, in GB."""
    spec = choices.spec
    lines = [
        f"{spec.kind} on a {spec.base} base model, {spec.batch_size} x {spec.frames / FRAMES_PER_S:g} s, "
        f"{spec.tokens} tokens, {spec.optimizer}, on {spec.device}",
        *choices.messages,
        *(
            f"{size:8.2f} GB  {PARTS[name]}"
            for name, size in found["parts"].items()
            if size and name not in found["unknown"]
        ),
        *(f" unknown     {PARTS[name]}" for name in found["unknown"]),
        f"{found['total']:8.2f} GB  {'peak, without the unknown parts' if found['unknown'] else 'peak'}",
    ]
    if sampled := found.get("samples"):
        outcome = ": they will be shortened or skipped" if sampled["fits"] is False else ""
        lines.append(f"{sampled['total']:8.2f} GB  while generating previews of {sampled['seconds']:g} s{outcome}")
    if found["fits"] is None:
        return "\n".join([*lines, "Free memory is unknown; pass it with --free."])
    lines.append(f"{found['free']:8.2f} GB  free: it {'fits' if found['fits'] else 'does not fit'}")
    for one in found["advice"]:
        lines.append(f"{one['together']:8.2f} GB  if you {one['change']} (alone: {one['alone']:.2f})")
    if found["advice"] and found["advice"][-1]["together"] > found["free"]:
        lines.append("It does not fit even with all of these changes.")
    elif not found["fits"] and not found["advice"]:
        lines.append("No setting is left to change; use a device with more memory.")
    return "\n".join(lines)
