"""A grid of audio players: rows are sources, columns are requests. Switching keeps the playback position.

Only the selected cell plays. All clips can be attenuated to the loudness of the quietest one.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from acestep.ui import html
from acestep.ui.workspace import playable

_QUIET_LUFS = -60.0  # quieter clips count as silence and do not attenuate others
_IDLE = "Nothing is playing. Click a cell; arrow keys switch to another one at the same position, Space pauses."

_SCRIPT = Path(__file__).with_name("audio_grid.js")


@dataclass(frozen=True, slots=True)
class GridRow:
    """One source: its name, the value of a pick ("" if it cannot be picked), and its audio files."""

    name: str
    pick: str
    sounds: Sequence[Path | None]


def make_grid(elem_id: str) -> gr.HTML:
    """The widget, to be given ``grid_of`` as value. Its event ``pick`` carries the row's value."""
    return gr.HTML(elem_id=elem_id, js_on_load=_SCRIPT.read_text(encoding="utf-8"))


def render_grid(columns: Sequence[str], rows: Sequence[GridRow], *, matched: bool, picked: str = "") -> str:
    """The grid as HTML. The cell of an unplayable file is empty.

    Args:
        matched: play all clips at the same loudness.
        picked: the value of the picked row.
    """
    pickable = any(row.pick for row in rows)
    heads = "".join(f'<th scope="col">{html.text(name)}</th>' for name in ("Source", *columns))
    heads += '<th scope="col">Best</th>' if pickable else ""
    gains = _gains([sound for row in rows for sound in row.sounds if sound], matched)
    body = ""
    for number, row in enumerate(rows):
        cells = (
            _cell(sound, gains, f"{row.name}, {columns[place]}", number, place)
            for place, sound in enumerate(row.sounds)
        )
        body += f'<tr><th scope="row">{html.text(row.name)}</th>{"".join(cells)}'
        body += f"<td>{_picker(row, picked)}</td></tr>" if pickable else "</tr>"
    return (
        '<div class="ac-scroll" tabindex="0" role="region" aria-label="Audio to compare">'
        f'<table class="ac-table ac-ab"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<p class="ac-now ac-phase" role="status">{_IDLE}</p>'
    )


def _cell(sound: Path | None, gains: dict[Path, float], label: str, row: int, column: int) -> str:
    if sound is None or sound not in gains:
        return '<td class="ac-none">none</td>'
    copy = playable(sound)
    data = {"key": copy.stem, "src": html.address(copy), "gain": f"{gains[sound]:.4f}", "row": row, "column": column}
    attributes = "".join(f' data-{name}="{value}"' for name, value in data.items())
    length = html.duration(_measured(sound, sound.stat().st_mtime_ns)[0])
    return (
        f'<td><button type="button"{attributes} aria-pressed="false" aria-label="{html.text(label)}">'
        f"<span>{length}</span></button></td>"
    )


def _picker(row: GridRow, picked: str) -> str:
    if not row.pick:
        return ""
    chosen = row.pick == picked
    words = "Picked" if chosen else "Pick"
    return (
        f'<button type="button" class="ac-pick" data-pick="{html.text(row.pick)}" aria-pressed="{str(chosen).lower()}" '
        f'aria-label="{words} {html.text(row.name)}">{words}</button>'
    )


def _gains(sounds: Sequence[Path], matched: bool) -> dict[Path, float]:
    """The gain of each readable file."""
    levels = {}
    for sound in sounds:
        try:
            levels[sound] = _measured(sound, sound.stat().st_mtime_ns)[1]
        except OSError:
            continue
    audible = [level for level in levels.values() if level > _QUIET_LUFS]
    if not matched or not audible:
        return dict.fromkeys(levels, 1.0)
    quietest = min(audible)
    return {sound: min(1.0, 10 ** ((quietest - level) / 20)) for sound, level in levels.items()}


@functools.lru_cache(maxsize=1000)
def _measured(sound: Path, changed_ns: int) -> tuple[float, float]:
    """Duration in seconds and loudness in LUFS; ``changed_ns`` invalidates the cache. Raises OSError."""
    import soundfile

    from acestep.audio.loudness import loudness_of_samples

    try:
        samples, rate = soundfile.read(sound, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as problem:
        raise OSError(str(problem)) from problem
    return len(samples) / rate, loudness_of_samples(samples.T)
