"""The editor of one song of the folder. Labels that are saved here are locked: later runs do not overwrite them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.captioning.configs import CaptionJob
from acestep.core.errors import DatasetError
from acestep.dataset.labels import INSTRUMENTAL, parse_bpm
from acestep.dataset.sample import Sample
from acestep.ui import html, layout
from acestep.ui.captioner.audio_folder import SongEntry
from acestep.ui.captioner.page_context import CaptionerContext
from acestep.ui.errors import notify
from acestep.ui.form import Data, Form
from acestep.ui.song_editor import SongEditor

_SECTIONS = ["Verse", "Chorus", "Bridge", "Instrumental"]
_TEMPO_TOLERANCE = 0.04  # within which a measured alternative replaces the doubled or halved tempo


class FolderSongEditor(SongEditor):
    """Edits songs of the folder by their audio file; the first column of the table is the name of the song."""

    def __init__(self, page: CaptionerContext, table: gr.Dataframe, form: Form[CaptionJob]) -> None:
        self._app, self._form = page.app, form
        super().__init__(page, table, "cp", save="Save Edit", autosave=page.app.folder.autosave)

    def _create_buttons(self, save: str) -> None:
        super()._create_buttons(save)
        regenerate = gr.Button("Regenerate", elem_id="cp-song-regenerate")
        self._page.on(regenerate.click, self._on_regenerate, {self._key, *self._form.inputs})

    def _add_below_tempo(self, fields: dict[str, Component]) -> None:
        with layout.actions():
            for label, name, factor in (("Tempo x2", "double", 2.0), ("Tempo /2", "half", 0.5)):
                button = gr.Button(label, size="sm", elem_id=f"cp-bpm-{name}")
                inputs = [self._key, fields["bpm"]]
                self._page.on(button.click, self._scaler(factor), inputs, [fields["bpm"]])

    def _add_below_lyrics(self, fields: dict[str, Component]) -> None:
        with layout.actions():
            for section in _SECTIONS:
                button = gr.Button(f"[{section}]", size="sm", elem_id=f"cp-insert-{section.lower()}")
                self._page.on(button.click, _inserter(section), [fields["lyrics"]], [fields["lyrics"]])

    def _keys(self) -> Sequence[str]:
        return [entry.sample.audio_path for entry in self._app.folder.entries]

    def _key_of_row(self, row: Sequence[Any]) -> str:
        return self._app.folder.find(str(row[0])).sample.audio_path

    def _entry(self, key: str) -> SongEntry:
        entry = self._app.folder.find_audio(key)
        if entry is None:
            raise DatasetError("this song is no longer in the list", hint="Scan the folder again.")
        return entry

    def _sample(self, key: str) -> Sample:
        return self._entry(key).sample

    def _name(self, key: str) -> str:
        return self._entry(key).name

    def _origin(self, key: str, label: str) -> str:
        entry = self._entry(key)
        if entry.known is not None and label in entry.known.locked:
            return "edited by you, locked"
        source = entry.sample.sources.get(label, "")
        return f"from {source}" if source else "not set"

    def _undo(self) -> None:
        self._app.folder.undo()

    def _refreshed(self) -> int:
        return self._app.folder.refreshed

    def _details_of(self, key: str) -> str:
        return _facts(self._entry(key))

    def _on_regenerate(self, data: Data) -> None:
        """Caption this song again; labels that the user edited stay."""
        entry = self._entry(data[self._key])
        assert self._app.folder.root is not None
        config = self._form.read(data, audio_dir=self._app.folder.root, only=[entry.name])
        config.existing = "redo"
        self._app.start(config)
        notify(f"Regenerating {entry.name}; see 3. Run.")

    def _scaler(self, factor: float) -> Callable[[str, str], str]:
        """Double or halve the tempo; takes the measured alternative if it is close."""

        def scale(key: str, text: str) -> str:
            try:
                bpm = parse_bpm(text)
            except ValueError as problem:
                raise DatasetError(f"BPM {problem}, not {text!r}") from None
            if not bpm:
                raise DatasetError("BPM is empty", hint="Enter a tempo.")
            target = bpm * factor
            alternatives = _alternatives(self._entry(key))
            close = [each for each in alternatives if abs(each / target - 1) < _TEMPO_TOLERANCE]
            return str(round(close[0] if close else target))

        return scale


def _inserter(section: str) -> Callable[[str], str]:
    def insert(lyrics: str) -> str:
        text = "" if lyrics.strip() == INSTRUMENTAL else lyrics.rstrip()
        return f"{text}\n\n[{section}]\n".lstrip("\n")

    return insert


def _measured(entry: SongEntry) -> dict[str, Any]:
    found = entry.known.extra.get("measured") if entry.known else None
    return found if isinstance(found, dict) else {}


def _alternatives(entry: SongEntry) -> list[float]:
    values = _measured(entry).get("bpm_alternatives")
    return [value for value in values if isinstance(value, int | float)] if isinstance(values, list) else []


def _facts(entry: SongEntry) -> str:
    """Length, measured values with their confidence, answers of the model, and disagreements."""
    measured = _measured(entry)
    rows: dict[str, object] = {"Length": html.duration(entry.sample.duration)}
    for name, value, confidence in (
        ("Measured tempo", "bpm", "bpm_confidence"),
        ("Measured key", "keyscale", "key_confidence"),
        ("Measured meter", "timesignature", "meter_confidence"),
    ):
        if measured.get(value) and isinstance(measured.get(confidence), int | float):
            number = measured[value]
            shown = f"{number:.1f}" if isinstance(number, float) else number
            rows[name] = f"{shown} (confidence {measured[confidence]:.2f})"
    if alternatives := _alternatives(entry):
        rows["Alternative tempos"] = ", ".join(f"{bpm:.0f}" for bpm in alternatives)
    answered = entry.known.extra.get("answered") if entry.known else None
    if isinstance(answered, dict):
        said = [str(answered[name]) for name in ("bpm", "keyscale", "timesignature", "genre") if answered.get(name)]
        rows[f"{answered.get('by', 'The model')} said"] = ", ".join(said)
    to_check = html.notice("To check", entry.doubts, "warn") if entry.doubts else ""
    return html.facts(rows) + to_check
