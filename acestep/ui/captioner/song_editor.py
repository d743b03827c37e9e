"""One song: hear it, correct its labels. What is saved here is locked: no later run changes it unless told to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.captioning.configs import CaptionJob
from acestep.core.errors import AceStepError, DatasetError
from acestep.dataset.labels import INSTRUMENTAL, is_sung, tempo
from acestep.ui import html
from acestep.ui.captioner.audio_folder import Entry
from acestep.ui.captioner.page_context import CaptionerContext, actions
from acestep.ui.errors import describe_error, notify
from acestep.ui.form import Form
from acestep.ui.workspace import playable

_BEATS = [("not known", ""), ("2", "2"), ("3", "3"), ("4", "4"), ("6", "6")]
_LANGUAGES = ["unknown", "en", "zh", "ja", "ko", "es", "fr", "de", "it", "pt", "ru"]
_SECTIONS = ["Verse", "Chorus", "Bridge", "Instrumental"]
_NOTHING_CHOSEN = "Choose a song in the table to hear it and to edit its labels."


class Editor:
    """Widgets and what they do."""

    def __init__(self, page: CaptionerContext, table: gr.Dataframe, form: Form[CaptionJob]) -> None:
        self._app, self._form = page.app, form
        self._chosen = gr.State("")
        self._told = gr.State({})  # the values that the fields were filled with: a run may have written others since
        self._title = gr.HTML(html.notice(_NOTHING_CHOSEN), elem_id="cp-song-title")
        with gr.Column(visible=False, elem_id="cp-song") as self._body:
            self._player = gr.Audio(
                label="Song", interactive=False, buttons=["download"], type="filepath", elem_id="cp-song-player"
            )
            self._facts = gr.HTML(elem_id="cp-song-facts")
            self._fields = self._make_fields(page)
            with actions():
                save = gr.Button("Save Edit", variant="primary", elem_id="cp-song-save")
                onward = gr.Button("Save and next", elem_id="cp-song-next")
                back = gr.Button("Previous", elem_id="cp-song-previous")
                again = gr.Button("Make again", elem_id="cp-song-again")
        self._outputs = [
            self._chosen, self._title, self._body, self._player, self._facts, self._told, *self._fields.values()
        ]  # fmt: skip
        inputs = [self._chosen, self._told, *self._fields.values()]
        page.on(table.select, self._select, [], self._outputs, quiet=True)
        page.on(save.click, self._save, inputs, self._outputs, quiet=True)
        page.on(onward.click, self._save_and_next, inputs, self._outputs, quiet=True)
        page.on(back.click, self._previous, [self._chosen], self._outputs, quiet=True)
        page.on(again.click, self._make_again, [self._chosen, *form.widgets])

    def _make_fields(self, page: CaptionerContext) -> dict[str, Component]:
        made: dict[str, Component] = {}
        made["caption"] = gr.Textbox(label="Caption", lines=4, elem_id="cp-song-caption")
        with gr.Row(elem_classes="ac-grid"):
            made["bpm"] = gr.Textbox(label="BPM", elem_id="cp-song-bpm")
            made["keyscale"] = gr.Textbox(label="Key", elem_id="cp-song-key")
            made["timesignature"] = gr.Dropdown(
                _BEATS, label="Time Signature", allow_custom_value=True, elem_id="cp-song-beats"
            )
            made["genre"] = gr.Textbox(label="Genre", elem_id="cp-song-genre")
        with actions():
            double = gr.Button("Tempo x2", size="sm", elem_id="cp-bpm-double")
            half = gr.Button("Tempo /2", size="sm", elem_id="cp-bpm-half")
        with gr.Row(elem_classes="ac-grid"):
            made["language"] = gr.Dropdown(
                _LANGUAGES, label="Language", allow_custom_value=True, elem_id="cp-song-language"
            )
            made["is_instrumental"] = gr.Checkbox(label="Instrumental", elem_id="cp-song-instrumental")
        made["lyrics"] = gr.Textbox(label="Lyrics", lines=8, max_lines=24, elem_id="cp-song-lyrics")
        with actions():
            for section in _SECTIONS:
                button = gr.Button(f"[{section}]", size="sm", elem_id=f"cp-insert-{section.lower()}")
                page.on(button.click, _inserter(section), [made["lyrics"]], [made["lyrics"]], quiet=True)
        for button, factor in ((double, 2.0), (half, 0.5)):
            inputs = [self._chosen, made["bpm"]]
            page.on(button.click, self._scaler(factor), inputs, [made["bpm"]], quiet=True)
        return made

    def _select(self, event: gr.SelectData) -> list[Any]:
        return self._show(self._app.songs.find(str((event.row_value or [""])[0])))

    def _save(self, chosen: str, told: dict[str, Any], *values: Any) -> list[Any]:
        self._keep(chosen, told, values)
        return self._show(self._app.songs.find(chosen))

    def _save_and_next(self, chosen: str, told: dict[str, Any], *values: Any) -> list[Any]:
        self._keep(chosen, told, values)
        return self._show(self._beside(chosen, 1))

    def _previous(self, chosen: str) -> list[Any]:
        return self._show(self._beside(chosen, -1))

    def _make_again(self, chosen: str, *values: Any) -> None:
        """Describe this song anew; what was typed stays."""
        entry = self._app.songs.find(chosen)
        assert self._app.songs.root is not None
        config = self._form.read(values, audio_dir=self._app.songs.root, only=[entry.name])
        config.existing = "redo"
        self._app.start(config)
        notify(f"{entry.name} is made again: see 3. Run.")

    def _keep(self, chosen: str, told: dict[str, Any], values: tuple[Any, ...]) -> None:
        """Save the labels that differ from what was shown; a run that goes on leaves them alone."""
        entry = self._app.songs.find(chosen)
        labels = dict(zip(self._fields, values, strict=True))
        changed = {name: value for name, value in labels.items() if told.get(name) != value}
        if is_sung(str(changed.get("lyrics", ""))) and "is_instrumental" not in changed:
            changed["is_instrumental"] = False
        elif changed.get("is_instrumental"):
            changed["lyrics"] = INSTRUMENTAL
        if changed:
            self._app.songs.edit(chosen, changed)
        notify(f"{entry.name} is saved." if changed else "Nothing was changed.")

    def _beside(self, chosen: str, step: int) -> Entry:
        entries = self._app.songs.entries
        place = entries.index(self._app.songs.find(chosen))
        return entries[(place + step) % len(entries)]

    def _scaler(self, factor: float) -> Callable[[str, str], str]:
        """Double or half the tempo: the exact alternative of the measurement, where there is one."""

        def scaled(chosen: str, typed: str) -> str:
            try:
                bpm = tempo(typed)
            except ValueError as problem:
                raise DatasetError(f"BPM {problem}, not {typed!r}") from None
            if not bpm:
                raise DatasetError("there is no tempo yet", hint="Type one.")
            wanted = bpm * factor
            near = [other for other in _alternatives(self._app.songs.find(chosen)) if abs(other / wanted - 1) < 0.04]
            return str(round(near[0] if near else wanted))

        return scaled

    def _show(self, entry: Entry) -> list[Any]:
        """Values of all widgets."""
        number = self._app.songs.entries.index(entry) + 1
        title = (
            f'<div class="ac-line"><h3>{html.text(entry.name)}</h3><span class="ac-phase">{number} of '
            f"{len(self._app.songs.entries)}</span></div>"
        )
        sound: str | None = None
        try:
            sound = str(playable(Path(entry.sample.audio_path)))
        except AceStepError as error:
            title += html.notice("It cannot be played", [describe_error(error)], "warn")
        told = {name: _shown(entry, name) for name in self._fields}
        fields = [gr.update(value=value, info=_origin(entry, name)) for name, value in told.items()]
        return [entry.name, title, gr.update(visible=True), gr.update(value=sound), _facts(entry), told, *fields]


def _inserter(section: str) -> Callable[[str], str]:
    def insert(lyrics: str) -> str:
        text = "" if lyrics.strip() == INSTRUMENTAL else lyrics.rstrip()
        return f"{text}\n\n[{section}]\n".lstrip("\n")

    return insert


def _shown(entry: Entry, name: str) -> Any:
    value = getattr(entry.sample, name)
    if isinstance(value, bool):
        return value
    return "" if value is None else str(value)


def _origin(entry: Entry, name: str) -> str:
    who = entry.sample.sources.get(name, "")
    if entry.known is not None and name in entry.known.locked:
        return "yours: locked"
    return f"from {who}" if who else "not given"


def _measured(entry: Entry) -> dict[str, Any]:
    found = entry.known.extra.get("measured") if entry.known else None
    return found if isinstance(found, dict) else {}


def _alternatives(entry: Entry) -> list[float]:
    told = _measured(entry).get("bpm_alternatives")
    return [value for value in told if isinstance(value, int | float)] if isinstance(told, list) else []


def _facts(entry: Entry) -> str:
    """Length, what was measured and how surely, what the model said, and where they differ."""
    measured = _measured(entry)
    rows: dict[str, object] = {"Length": html.duration(entry.sample.duration)}
    for name, value, sure in (
        ("Measured tempo", "bpm", "bpm_confidence"),
        ("Measured key", "keyscale", "key_confidence"),
        ("Measured beats", "timesignature", "meter_confidence"),
    ):
        if measured.get(value) and isinstance(measured.get(sure), int | float):
            number = measured[value]
            shown = f"{number:.1f}" if isinstance(number, float) else number
            rows[name] = f"{shown} (confidence {measured[sure]:.2f})"
    if others := _alternatives(entry):
        rows["It may also be"] = ", ".join(f"{bpm:.0f}" for bpm in others)
    answered = entry.known.extra.get("answered") if entry.known else None
    if isinstance(answered, dict):
        said = [str(answered[name]) for name in ("bpm", "keyscale", "timesignature", "genre") if answered.get(name)]
        rows[f"{answered.get('by', 'The model')} said"] = ", ".join(said)
    doubts = html.notice("To check", entry.doubts, "warn") if entry.doubts else ""
    return html.facts(rows) + doubts
