"""Which tensors are trained on, and what they contain."""

from __future__ import annotations

import gradio as gr

from acestep.core.config import fields
from acestep.core.errors import AceStepError
from acestep.tensors.manifest import Manifest
from acestep.training.configs import TrainJob
from acestep.ui import html, layout
from acestep.ui.errors import describe_error
from acestep.ui.trainer.app_state import TENSORS
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.recommended_epochs import AUTOMATIC

_SONG_CONTEXTS = (
    "Preprocessed for LoKr by the ACE-Step app: the context holds the song itself. Training replaces it by silence."
)


class TensorsPicker:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        field = fields(TrainJob)["tensor_dir"]
        with layout.field_row():
            self.component = gr.Textbox(
                TENSORS, label=field.title, info=field.description, elem_id="tr-train-tensors", scale=5
            )
            load = gr.Button("Load", elem_id="tr-train-load", scale=0)
        facts = gr.HTML(elem_id="tr-train-facts")
        automatic = gr.Checkbox(
            True,
            label="Auto-recommend epochs",
            info="Max Epochs and Save Every N Epochs follow the number of songs until you enter a value.",
            elem_id="tr-train-auto",
        )
        page.saved_fields.add("train.tensors", self.component)
        page.saved_fields.add(AUTOMATIC, automatic)
        for trigger in (load.click, self.component.submit):
            page.on(trigger, self._load, [self.component])
        page.live.add([facts], self._app.tensors_version, lambda: [self._facts()])

    def _load(self, text: str) -> None:
        self._app.settings.put({"train.tensors": text})
        self._app.clear_cache()
        self._app.tensors()

    def _facts(self) -> str:
        try:
            manifest = self._app.tensors()
        except AceStepError as error:
            return html.notice("No tensors in this folder yet", [describe_error(error)], "warn")
        return describe_tensors(manifest)


def describe_tensors(manifest: Manifest) -> str:
    """HTML with the number of samples, the trigger word, the model, and any problems."""
    songs = html.count(len(manifest.paths), "song")
    tag = manifest.metadata.get("custom_tag")
    facts = [
        songs,
        f"trigger word {tag}" if tag else "no trigger word",
        f"encoded with {manifest.preprocessing.get('model_checkpoint', 'an unknown model')}",
    ]
    problems = [*([_SONG_CONTEXTS] if manifest.song_contexts else []), *manifest.problems[:3]]
    return html.notice(", ".join(facts), problems, "warn" if problems else "good")
