"""Music of one training: samples that it made as it went, and pieces that were asked for, to be set side by side."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core.errors import AceStepError
from acestep.core.files import read_json
from acestep.models.configs import GenerationConfig
from acestep.training.state.run_folder import ADAPTER, RunFolder
from acestep.ui.trainer.generations import list_generations

BASE_MODEL = "model alone"
_LAST = {"best": 1, "final": 2}  # after all epochs
_MOST_PIECES = 200
_PROMPT_CHARS = 70


@dataclass(frozen=True, slots=True)
class Clip:
    """One sound file. ``source`` names what made it: the model alone, an epoch, best or final.

    ``asked`` is the request as JSON text: what was asked for is the same where it is equal. ``adapter`` is the folder
    of the adapter, if it is still there.
    """

    path: Path
    source: str
    strength: float
    asked: str
    made_s: float
    adapter: Path | None = None

    @property
    def request(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.asked)
        return found

    @property
    def place(self) -> tuple[int, int]:
        """Sorts sources on the way from the model alone to the end of the run."""
        if self.source == BASE_MODEL:
            return -1, 0
        if self.source in _LAST:
            return _LAST[self.source], 0
        return 0, int(self.source.split()[1])


def previews_of(run: Path) -> list[Clip]:
    """The samples of a run, in the order of their epochs and strengths. What cannot be read is left out."""
    found = []
    for path in RunFolder(run).samples.glob("epoch_*/strength_*.wav"):
        try:
            facts = read_json(path.with_suffix(".json"), error=AceStepError)
            epoch, strength = int(facts["epoch"]), float(facts["strength"])
            asked, made_s = _asked(facts), path.stat().st_mtime
        except (AceStepError, KeyError, TypeError, ValueError, OSError):
            continue
        adapter = RunFolder(run).checkpoints / f"epoch_{epoch}" / ADAPTER
        source = f"epoch {epoch}" if epoch else BASE_MODEL
        found.append(Clip(path, source, strength, asked, made_s, adapter if adapter.is_dir() else None))
    return sorted(found, key=lambda sound: (*sound.place, sound.strength))


def latest_previews(run: Path) -> list[Clip]:
    """Those of the last epoch that has any, by strength."""
    found = previews_of(run)
    return [sound for sound in found if sound.source == found[-1].source]


def generations_of(root: Path, run: Path, checkpoint: str) -> list[Clip]:
    """The pieces below ``root`` that were made with adapters of a run, or with its model alone."""
    found = []
    for piece in list_generations(root, _MOST_PIECES):
        adapter, asked = piece.request.adapter, _asked(piece.request.request.model_dump(mode="json"))
        if adapter is None and Path(piece.request.checkpoint).name == Path(checkpoint).name:
            found.append(Clip(piece.sound, BASE_MODEL, 0.0, asked, piece.made_s))
        elif adapter is not None and (source := source_of(run, adapter)):
            found.append(Clip(piece.sound, source, piece.request.strength, asked, piece.made_s, adapter))
    return found


def source_of(run: Path, adapter: Path) -> str:
    """What an adapter of a run is called here; "" if it is of another run."""
    place = adapter.parent if adapter.name == ADAPTER else adapter
    if place in (RunFolder(run).best, RunFolder(run).final):
        return place.name
    parts = place.name.split("_")
    if place.parent != RunFolder(run).checkpoints or parts[0] != "epoch" or not parts[1:] or not parts[1].isdigit():
        return ""
    step = f" step {parts[3]}" if len(parts) > 3 else ""
    return f"epoch {parts[1]}{step}"


def strengths(sounds: Iterable[Clip]) -> list[float]:
    """The strengths at which adapters can be heard."""
    return sorted({sound.strength for sound in sounds if sound.source != BASE_MODEL})


def requests(sounds: Iterable[Clip]) -> list[str]:
    """What was asked for, the latest first."""
    latest: dict[str, float] = {}
    for sound in sounds:
        latest[sound.asked] = max(sound.made_s, latest.get(sound.asked, 0.0))
    return sorted(latest, key=lambda asked: -latest[asked])


def newest(sounds: Sequence[Clip], source: str, asked: str) -> Clip | None:
    """The newest one from there of what was asked for."""
    found = [sound for sound in sounds if (sound.source, sound.asked) == (source, asked)]
    return max(found, key=lambda sound: sound.made_s, default=None)


def request_label(asked: str) -> str:
    """What was asked for, in the words above a column."""
    request = json.loads(asked)
    prompt = str(request.get("prompt") or "no style given")
    short = prompt if len(prompt) <= _PROMPT_CHARS else f"{prompt[:_PROMPT_CHARS]}..."
    return f"{short} ({request.get('duration_s') or 0:g} s, seed {request.get('seed')})"


def _asked(facts: dict[str, Any]) -> str:
    return json.dumps({name: facts.get(name) for name in GenerationConfig.model_fields})
