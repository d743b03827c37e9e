"""The command that predicts what a training run will take of the device's memory. Loads neither torch nor a model."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from acestep.console import Json
from acestep.core.errors import ConfigError
from acestep.models.checkpoint import find_checkpoint
from acestep.training.configs import train_job_from_flags
from acestep.training.gpu_monitor import vram_status
from acestep.training.memory import GIB, PARTS, estimate
from acestep.training.memory_advice import Advice, advise
from acestep.training.memory_samples import estimate_samples
from acestep.training.memory_spec import FAMILIES, FRAMES_PER_S, LONGEST_S, USUAL_TOKENS, MemorySpec, memory_spec

Family = Literal["2b", "xl"]
Device = Literal["cuda", "xpu", "mps", "cpu"]


def memory(
    checkpoint: Annotated[str | None, typer.Option(help="Name or folder of the model.")] = None,
    family: Annotated[Family | None, typer.Option(help="Or only its family. [default: 2b]")] = None,
    preset: Annotated[str | None, typer.Option(help="Name or file of a preset. [default: recommended]")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, key=value. May be repeated.")] = None,
    device: Annotated[Device, typer.Option(help="What it will be trained on.")] = "cuda",
    longest: Annotated[float, typer.Option(help="Seconds of the longest song.", min=1, max=600)] = LONGEST_S,
    tokens: Annotated[
        int, typer.Option(help="Tokens of the longest description and lyrics.", min=1, max=4096)
    ] = USUAL_TOKENS,
    free: Annotated[
        float | None, typer.Option(help="GB that are free. [default: what nvidia-smi tells]", min=0)
    ] = None,
    json_output: Json = False,
) -> None:
    """Predict the peak memory of a training run, and tell what to change if it will not fit."""
    if checkpoint is not None and family is not None:
        raise ConfigError(["both --checkpoint and --family are given"], hint="Give one of them.")
    model = FAMILIES[family or "2b"] if checkpoint is None else find_checkpoint(checkpoint).config
    with tempfile.TemporaryDirectory() as unused:  # a job needs folders, this one will never run
        flags = {"tensor_dir": unused, "checkpoint": checkpoint or "", "out": unused}
        job = train_job_from_flags(flags, config, set_ or [], preset)
    frames = round(longest * FRAMES_PER_S)
    spec = memory_spec(model, job.training, job.adapter, device=device, longest=frames, tokens=tokens)
    room = _room(free, device)
    found = _found(spec, room, [] if room is None else advise(spec, room))
    if job.samples.enabled:
        found["samples"] = _samples(spec, room, job.samples.duration_s)
    typer.echo(json.dumps({"ok": True, **found}) if json_output else _told(spec, found))


def _room(free: float | None, device: str) -> float | None:
    """Free bytes; None if nobody knows."""
    if free is None and device == "cuda":
        card = vram_status()
        free = card.free_gb if card else None
    return None if free is None else free * GIB


def _found(spec: MemorySpec, room: float | None, advice: list[Advice]) -> dict[str, Any]:
    result = estimate(spec)
    return {
        "parts": {name: size / GIB for name, size in result.parts.items()},
        "total": result.total / GIB,
        "free": None if room is None else room / GIB,
        "fits": None if room is None else result.fits(room),
        "advice": [
            {"change": one.text, "alone": one.alone.total / GIB, "together": one.together.total / GIB} for one in advice
        ],
    }


def _samples(spec: MemorySpec, room: float | None, duration_s: float) -> dict[str, Any]:
    """The moments at which samples are made."""
    result = estimate_samples(spec, duration_s)
    parts = {name: size / GIB for name, size in result.parts.items()}
    fits = None if room is None else result.fits(room)
    return {"seconds": duration_s, "parts": parts, "total": result.total / GIB, "fits": fits}


def _told(spec: MemorySpec, found: dict[str, Any]) -> str:
    """For people: GB throughout."""
    layers = f"every {spec.checkpoint_every}. layer" if spec.checkpoint_every > 1 else "every layer"
    checkpointing = f"{layers} computed twice" if spec.checkpoint_every else "no gradient checkpointing"
    lines = [
        f"{spec.kind} on a base in {spec.base}, {spec.batch_size} x {spec.frames / FRAMES_PER_S:g} s, "
        f"{spec.tokens} tokens, {checkpointing}, {spec.optimizer}, on {spec.device}",
        *(f"{size:8.2f} GB  {PARTS[name]}" for name, size in found["parts"].items() if size),
        f"{found['total']:8.2f} GB  at the peak",
    ]
    if sampled := found.get("samples"):
        outcome = ": they will be shorter or left out" if sampled["fits"] is False else ""
        lines.append(f"{sampled['total']:8.2f} GB  while samples of {sampled['seconds']:g} s are made{outcome}")
    if found["fits"] is None:
        return "\n".join([*lines, "How much is free is not known here: say it with --free."])
    lines.append(f"{found['free']:8.2f} GB  free: it {'fits' if found['fits'] else 'does not fit'}")
    for one in found["advice"]:
        lines.append(f"{one['together']:8.2f} GB  if you {one['change']} (alone: {one['alone']:.2f})")
    if found["advice"] and found["advice"][-1]["together"] > found["free"]:
        lines.append("Even then it does not fit.")
    elif not found["fits"] and not found["advice"]:
        lines.append("There is nothing left to change: it needs a larger device.")
    return "\n".join(lines)
