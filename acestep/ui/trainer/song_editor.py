"""One song: hear it, and correct what is said of it. Each field tells who wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.core.errors import AceStepError, DatasetError
from acestep.dataset.sample import Sample
from acestep.ui import html
from acestep.ui.errors import describe_error, notify
from acestep.ui.trainer.editable_dataset import BY_HAND
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.workspace import playable

_BEATS = [("not known", ""), ("2", "2"), ("3", "3"), ("4", "4"), ("6", "6")]
_LANGUAGES = ["unknown", "en", "zh", "ja", "ko", "es", "fr", "de", "it", "pt", "ru"]
_PROMPTS = [("Use Global Ratio", ""), ("Caption", "caption"), ("Genre", "genre")]
_NOTHING_CHOSEN = "Choose a song in the table to hear it and to edit its labels."


class SongEditor:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext, table: gr.Dataframe) -> None:
        self._shell, self._songs = page, page.app.songs
        self._chosen = gr.State("")  # id of the song that this page edits
        self._title = gr.HTML(elem_id="tr-song-title")
        with gr.Column(visible=False, elem_id="tr-song") as self._body:
            self._player = gr.Audio(
                label="Song", interactive=False, buttons=["download"], type="filepath", elem_id="tr-song-player"
            )
            self._fields = self._make_fields()
            with gr.Row(elem_classes="ac-actions"):
                back = gr.Button("Previous", elem_id="tr-song-previous", min_width=80)
                save = gr.Button("Save", elem_id="tr-song-save", min_width=80)
                onward = gr.Button("Save and next", elem_id="tr-song-next", min_width=120)
        self.outputs = [self._chosen, self._title, self._body, self._player, *self._fields.values()]
        inputs = [self._chosen, *self._fields.values()]
        page.on(table.select, self._select, [], self.outputs, quiet=True)
        page.on(save.click, self._save, inputs, self.outputs, quiet=True)
        page.on(onward.click, self._save_and_next, inputs, self.outputs, quiet=True)
        page.on(back.click, self._previous, [self._chosen], self.outputs, quiet=True)

    def first(self) -> list[Any]:
        """Show the first song, or that there is none."""
        return self._show(self._songs.samples[0] if self._songs.samples else None)

    def _make_fields(self) -> dict[str, Component]:
        with gr.Column():
            top: dict[str, Component] = {
                "caption": gr.Textbox(label="Caption", lines=3, elem_id="tr-song-caption"),
                "genre": gr.Textbox(label="Genre", elem_id="tr-song-genre"),
            }
            with gr.Row():
                top["bpm"] = gr.Textbox(label="BPM", min_width=90, elem_id="tr-song-bpm")
                top["keyscale"] = gr.Textbox(label="Key", min_width=110, elem_id="tr-song-key")
                top["timesignature"] = gr.Dropdown(
                    _BEATS, label="Time Signature", allow_custom_value=True, min_width=110, elem_id="tr-song-beats"
                )
            top["lyrics"] = gr.Textbox(label="Lyrics", lines=6, max_lines=20, elem_id="tr-song-lyrics")
            with gr.Row():
                top["language"] = gr.Dropdown(
                    _LANGUAGES, label="Language", allow_custom_value=True, min_width=110, elem_id="tr-song-language"
                )
                top["prompt_override"] = gr.Dropdown(
                    _PROMPTS, label="Prompt Type", min_width=190, elem_id="tr-song-prompt"
                )
                top["is_instrumental"] = gr.Checkbox(
                    label="Instrumental", min_width=110, elem_id="tr-song-instrumental"
                )
        return top

    def _select(self, event: gr.SelectData) -> list[Any]:
        number = int((event.row_value or [0])[0])
        if not 0 < number <= len(self._songs.samples):
            raise DatasetError("this song is no longer in the list", hint="Reload the page.")
        return self._show(self._songs.samples[number - 1])

    def _save(self, chosen: str, *values: Any) -> list[Any]:
        index = self._keep(chosen, values)  # first: it replaces the list
        return self._show(self._songs.samples[index])

    def _save_and_next(self, chosen: str, *values: Any) -> list[Any]:
        index = self._keep(chosen, values) + 1
        return self._show(self._songs.samples[index % len(self._songs.samples)])

    def _previous(self, chosen: str) -> list[Any]:
        return self._show(self._songs.samples[self._index(chosen) - 1])

    def _keep(self, chosen: str, values: tuple[Any, ...]) -> int:
        """Take the values over into the song, by its id: the list may have changed in another page."""
        index = self._index(chosen)
        labels = dict(zip(self._fields, values, strict=True))
        song = self._songs.samples[index]
        changed = {name: value for name, value in labels.items() if _shown(song, name) != value}
        if changed.get("lyrics") and "is_instrumental" not in changed:
            changed["is_instrumental"] = False  # words were typed for an instrumental song
        elif changed.get("is_instrumental"):
            changed["lyrics"] = ""
        self._songs.relabel({index: changed})
        notify(f"{song.name} is saved.")
        return index

    def _index(self, chosen: str) -> int:
        for index, song in enumerate(self._songs.samples):
            if song.id == chosen:
                return index
        raise DatasetError("this song is no longer in the list", hint="Choose another one in the table.")

    def _show(self, song: Sample | None) -> list[Any]:
        """Values of all widgets."""
        if song is None:
            return [
                "",
                html.notice(_NOTHING_CHOSEN),
                gr.update(visible=False),
                None,
                *(gr.skip() for _ in self._fields),
            ]
        number = self._index(song.id) + 1
        title = f"<h3>{html.text(song.name)}</h3>"
        trouble = ""
        try:
            sound: str | None = str(playable(Path(song.audio_path)))
        except AceStepError as error:
            sound, trouble = None, html.notice("It cannot be played", [describe_error(error)], "warn")
        where = (
            f'<div class="ac-line">{title}<span class="ac-phase">{number} of {len(self._songs.samples)}</span></div>'
        )
        fields = [gr.update(value=_shown(song, name), info=_origin(song, name)) for name in self._fields]
        return [song.id, where + trouble, gr.update(visible=True), gr.update(value=sound), *fields]


def _shown(song: Sample, name: str) -> Any:
    value = getattr(song, name)
    if isinstance(value, bool):
        return value
    return "" if value is None else str(value)


def _origin(song: Sample, name: str) -> str:
    source = song.sources.get(name, "")
    return "written by you" if source == BY_HAND else f"from {source}" if source else "not given"
