"""The latest audio previews of several runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from acestep.ui.trainer.audio_clips import Clip, latest_previews, request_label, requests
from acestep.ui.trainer.audio_grid import GridRow, render_grid

_MAX_COLUMNS = 3


def latest_preview_grid(runs: Sequence[Path]) -> str:
    """A grid with the latest audio preview of each run, at the strength closest to 1; "" without any."""
    found = {run.name: sounds for run in runs if (sounds := _last(run))}
    if not found:
        return ""
    columns = requests(sound for sounds in found.values() for sound in sounds)[:_MAX_COLUMNS]
    rows = [
        GridRow(f"{name}, {sounds[0].source}", "", [_first(sounds, request) for request in columns])
        for name, sounds in found.items()
    ]
    title = '<h3 class="ac-title">Latest samples</h3>'
    return title + render_grid([request_label(request) for request in columns], rows, matched=True)


def _last(run: Path) -> list[Clip]:
    return sorted(latest_previews(run), key=lambda sound: abs(sound.strength - 1.0))


def _first(sounds: Sequence[Clip], request: str) -> Path | None:
    return next((sound.path for sound in sounds if sound.request_json == request), None)
