"""The editor of one song of the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.core.errors import DatasetError
from acestep.dataset.sample import Sample
from acestep.dataset.user_labels import USER
from acestep.ui.song_editor import SongEditor
from acestep.ui.trainer.editable_dataset import song_key
from acestep.ui.trainer.page_context import TrainerContext

_PROMPTS = [("Use Global Ratio", ""), ("Caption", "caption"), ("Genre", "genre")]


class DatasetSongEditor(SongEditor):
    """Edits samples of the dataset; the first column of the table is the number of the sample."""

    def __init__(self, page: TrainerContext, table: gr.Dataframe) -> None:
        self._dataset = page.app.dataset
        super().__init__(page, table, "tr", save="Save", autosave=self._dataset.autosave)

    def _more_fields(self) -> dict[str, Component]:
        return {"prompt_override": gr.Dropdown(_PROMPTS, label="Prompt Type", elem_id=self._id("prompt"))}

    def _keys(self) -> Sequence[str]:
        return [song_key(sample) for sample in self._dataset.samples]

    def _key_of_row(self, row: Sequence[Any]) -> str:
        number, keys = int(row[0]) if str(row[0]).isdecimal() else 0, self._keys()
        if not 0 < number <= len(keys):
            raise DatasetError("this song is no longer in the list", hint="Reload the page.")
        return keys[number - 1]

    def _index(self, key: str) -> int:
        keys = self._keys()
        if key not in keys:
            raise DatasetError("this song is no longer in the list", hint="Select another one in the table.")
        return keys.index(key)

    def _sample(self, key: str) -> Sample:
        return self._dataset.samples[self._index(key)]

    def _origin(self, key: str, label: str) -> str:
        source = self._sample(key).sources.get(label, "")
        return "written by you" if source == USER else f"from {source}" if source else "not set"

    def _undo(self) -> None:
        self._dataset.undo()

    def _refreshed(self) -> int:
        return self._dataset.refreshed

    def _not_written(self) -> str:
        return self._dataset.not_written()
