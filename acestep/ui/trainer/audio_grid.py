"""Sounds side by side: rows are sources, columns are requests. Switching keeps the place in the music.

Nothing but the clicked cell plays; all are brought to the level of the quietest, so that the louder one does not win.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from acestep.ui import html
from acestep.ui.workspace import playable

_QUIET_LUFS = -60.0  # what is below counts as silence, and nothing is brought down to it
_IDLE = "Nothing is playing. Click a cell; the arrow keys go to another one at the same second, Space pauses."

_SCRIPT = Path(__file__).with_name("audio_grid.js")


@dataclass(frozen=True, slots=True)
class Row:
    """One source: the name that is shown, the value that a pick of it gives ("" if it cannot be picked), its sounds."""

    name: str
    pick: str
    sounds: Sequence[Path | None]


def make_grid(elem_id: str) -> gr.HTML:
    """The widget, to be given ``grid_of`` as value. Its event ``pick`` carries the row's value."""
    return gr.HTML(elem_id=elem_id, js_on_load=_SCRIPT.read_text(encoding="utf-8"))


def render_grid(columns: Sequence[str], rows: Sequence[Row], *, matched: bool, picked: str = "") -> str:
    """The grid as HTML. A sound that cannot be played leaves its cell empty.

    Args:
        matched: the loudness of all sounds is the same.
        picked: the value of the row that was picked.
    """
    pickable = any(row.pick for row in rows)
    heads = "".join(f'<th scope="col">{html.text(name)}</th>' for name in ("Made by", *columns))
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
        '<div class="ac-scroll" tabindex="0" role="region" aria-label="Sounds to compare">'
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


def _picker(row: Row, picked: str) -> str:
    if not row.pick:
        return ""
    chosen = row.pick == picked
    words = "Picked" if chosen else "Pick"
    return (
        f'<button type="button" class="ac-pick" data-pick="{html.text(row.pick)}" aria-pressed="{str(chosen).lower()}" '
        f'aria-label="{words} {html.text(row.name)}">{words}</button>'
    )


def _gains(sounds: Sequence[Path], matched: bool) -> dict[Path, float]:
    """How far each sound is turned down; those that cannot be read are not in it."""
    levels = {}
    for sound in sounds:
        try:
            levels[sound] = _measured(sound, sound.stat().st_mtime_ns)[1]
        except OSError:
            continue
    heard = [level for level in levels.values() if level > _QUIET_LUFS]
    if not matched or not heard:
        return dict.fromkeys(levels, 1.0)
    quietest = min(heard)
    return {sound: min(1.0, 10 ** ((quietest - level) / 20)) for sound, level in levels.items()}


@functools.lru_cache(maxsize=1000)
def _measured(sound: Path, changed_ns: int) -> tuple[float, float]:
    """Seconds and loudness of a sound file as it was at that moment. Raises OSError."""
    import soundfile

    from acestep.audio.loudness import loudness_of_samples

    try:
        samples, rate = soundfile.read(sound, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as problem:
        raise OSError(str(problem)) from problem
    return len(samples) / rate, loudness_of_samples(samples.T)
