"""Audio of one run for comparison: previews from training, and generations with its adapters."""

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

BASE_MODEL = "base model"
_LAST = {"best": 1, "final": 2}  # after all epochs
_MAX_GENERATIONS = 200
_PROMPT_CHARS = 70


@dataclass(frozen=True, slots=True)
class Clip:
    """One audio file. ``source`` is what generated it: the base model, an epoch, best or final.

    ``request_json`` is the request as JSON; equal texts are equal requests. ``adapter`` is the folder of the adapter,
    if it exists.
    """

    path: Path
    source: str
    strength: float
    request_json: str
    created_s: float
    adapter: Path | None = None

    @property
    def request(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.request_json)
        return found

    @property
    def order(self) -> tuple[int, int]:
        """The sort key of sources, from the base model to the end of the run."""
        if self.source == BASE_MODEL:
            return -1, 0
        if self.source in _LAST:
            return _LAST[self.source], 0
        return 0, int(self.source.split()[1])


def previews_of(run: Path) -> list[Clip]:
    """The audio previews of a run by epoch and strength. Unreadable ones are skipped."""
    found = []
    for path in RunFolder(run).samples.glob("epoch_*/strength_*.wav"):
        try:
            facts = read_json(path.with_suffix(".json"), error=AceStepError)
            epoch, strength = int(facts["epoch"]), float(facts["strength"])
            request_json, created_s = _request_json(facts), path.stat().st_mtime
        except (AceStepError, KeyError, TypeError, ValueError, OSError):
            continue
        adapter = RunFolder(run).checkpoints / f"epoch_{epoch}" / ADAPTER
        source = f"epoch {epoch}" if epoch else BASE_MODEL
        found.append(Clip(path, source, strength, request_json, created_s, adapter if adapter.is_dir() else None))
    return sorted(found, key=lambda sound: (*sound.order, sound.strength))


def latest_previews(run: Path) -> list[Clip]:
    """The audio previews of the last epoch that has any, by strength."""
    found = previews_of(run)
    return [sound for sound in found if sound.source == found[-1].source]


def generations_of(root: Path, run: Path, checkpoint: str) -> list[Clip]:
    """The generations in ``root`` with adapters of a run or with its base model."""
    found = []
    for generation in list_generations(root, _MAX_GENERATIONS):
        job, created_s = generation.request, generation.created_s
        request_json = _request_json(job.request.model_dump(mode="json"))
        if job.adapter is None and Path(job.checkpoint).name == Path(checkpoint).name:
            found.append(Clip(generation.audio, BASE_MODEL, 0.0, request_json, created_s))
        elif job.adapter is not None and (source := source_of(run, job.adapter)):
            found.append(Clip(generation.audio, source, job.strength, request_json, created_s, job.adapter))
    return found


def source_of(run: Path, adapter: Path) -> str:
    """The source name of an adapter of a run; "" for an adapter of another run."""
    folder = adapter.parent if adapter.name == ADAPTER else adapter
    if folder in (RunFolder(run).best, RunFolder(run).final):
        return folder.name
    parts = folder.name.split("_")
    if folder.parent != RunFolder(run).checkpoints or parts[0] != "epoch" or not parts[1:] or not parts[1].isdigit():
        return ""
    step = f" step {parts[3]}" if len(parts) > 3 else ""
    return f"epoch {parts[1]}{step}"


def strengths(sounds: Iterable[Clip]) -> list[float]:
    """The strengths of the clips with an adapter."""
    return sorted({sound.strength for sound in sounds if sound.source != BASE_MODEL})


def requests(sounds: Iterable[Clip]) -> list[str]:
    """The requests, the latest first."""
    latest: dict[str, float] = {}
    for sound in sounds:
        latest[sound.request_json] = max(sound.created_s, latest.get(sound.request_json, 0.0))
    return sorted(latest, key=lambda request_json: -latest[request_json])


def newest(sounds: Sequence[Clip], source: str, request_json: str) -> Clip | None:
    """The newest clip of a source and a request."""
    found = [sound for sound in sounds if (sound.source, sound.request_json) == (source, request_json)]
    return max(found, key=lambda sound: sound.created_s, default=None)


def request_label(request_json: str) -> str:
    """The label of a request above its column."""
    request = json.loads(request_json)
    prompt = str(request.get("prompt") or "no prompt")
    short = prompt if len(prompt) <= _PROMPT_CHARS else f"{prompt[:_PROMPT_CHARS]}..."
    return f"{short} ({request.get('duration_s') or 0:g} s, seed {request.get('seed')})"


def _request_json(facts: dict[str, Any]) -> str:
    return json.dumps({name: facts.get(name) for name in GenerationConfig.model_fields})
