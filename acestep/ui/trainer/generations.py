"""Generated audio: one folder per generation, with its request and the audio file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from acestep.core.errors import AceStepError
from acestep.core.files import read_json
from acestep.core.jobs import read_job
from acestep.ui import html
from acestep.ui.jobs import GENERATION, GenerateJob
from acestep.ui.workspace import playable

_SHOWN = 12
_SETTINGS_OF_ADAPTERS = ("adapter_config.json", "lokr_config.json")


@dataclass(frozen=True, slots=True)
class Generation:
    """One finished generation."""

    folder: Path
    audio: Path
    request: GenerateJob
    created_s: float


def new_generation_folder(root: Path) -> Path:
    """A folder below ``root`` that does not exist, named after the current time."""
    name = time.strftime("%Y%m%d-%H%M%S")
    number, folder = 1, root / name
    while folder.exists():
        number += 1
        folder = root / f"{name}-{number}"
    return folder


def list_generations(root: Path, most: int = _SHOWN) -> list[Generation]:
    """The finished generations in ``root``, the newest first."""
    sounds = sorted(root.glob(f"*/{GENERATION}.*"), key=lambda path: path.stat().st_mtime, reverse=True)
    found = []
    for sound in sounds[:most]:
        try:
            _, request = read_job(sound.parent)
        except AceStepError:
            continue  # not a folder of a generation
        if isinstance(request, GenerateJob):
            found.append(Generation(sound.parent, sound, request, sound.stat().st_mtime))
    return found


def adapter_label(adapter: Path | None, strength: float) -> str:
    """The run and the checkpoint of an adapter, and its strength."""
    if adapter is None:
        return "base model"
    parts = [part for part in adapter.parts[-4:] if part not in ("adapter", "checkpoints", "lora_output")]
    return f"{', '.join(parts[-2:])} at {strength:g}"


def trigger_word(adapter: str) -> str:
    """The trigger word in the config of an adapter; "" without one."""
    for name in _SETTINGS_OF_ADAPTERS:
        path = Path(adapter) / name
        if adapter and path.is_file():
            settings = read_json(path, error=AceStepError)
            return str(settings.get("trigger_word") or "") if isinstance(settings, dict) else ""
    return ""


def player(audio: Path, label: str) -> str:
    """An audio player as HTML, for a copy in the cache."""
    address = html.address(playable(audio))
    return f'<audio controls preload="none" src="{address}" aria-label="{html.text(label)}"></audio>'


def generation_row(generation: Generation) -> str:
    """A generation with its request and a player, as HTML."""
    request = generation.request.request
    title = adapter_label(generation.request.adapter, generation.request.strength)
    when = time.strftime("%d %b %H:%M", time.localtime(generation.created_s))
    about = f"{when}, {request.duration_s:g} s, seed {request.seed}, {Path(generation.request.checkpoint).name}"
    return (
        f'<li class="ac-generation"><div><strong>{html.text(title)}</strong> '
        f'<span class="ac-phase">{html.text(about)}</span>'
        f"<p>{html.text(request.prompt or 'no prompt')}</p></div>{player(generation.audio, title)}</li>"
    )
