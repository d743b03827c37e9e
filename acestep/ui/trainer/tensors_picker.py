"""Which preprocessed songs are trained on, what they are, and how many epochs suit their number."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.core.config import fields
from acestep.core.errors import AceStepError
from acestep.training.configs import TrainJob
from acestep.training.presets import recommend_epochs
from acestep.ui import html
from acestep.ui.errors import describe_error
from acestep.ui.form import Form
from acestep.ui.trainer.app_state import TENSORS
from acestep.ui.trainer.page_context import TrainerContext

_PACE = ("max_epochs", "save_every_n_epochs")


class TensorsPicker:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext, training: Form[Any]) -> None:
        self._app, self._training = page.app, training
        with gr.Row(elem_classes="ac-with-button"):
            about = fields(TrainJob)["tensor_dir"]
            self.widget = gr.Textbox(
                TENSORS, label=about.title, info=about.description, elem_id="tr-train-tensors", scale=5
            )
            load = gr.Button("Load", elem_id="tr-train-load", scale=0)
        facts = gr.HTML(elem_id="tr-train-facts")
        automatic = gr.Checkbox(
            True,
            label="Auto-recommend epochs",
            info="Sets Max Epochs and Save Every N Epochs to what suits the number of songs when tensors are loaded.",
            elem_id="tr-train-auto",
        )
        page.saved_fields.add("train.tensors", self.widget)
        page.saved_fields.add("train.auto-epochs", automatic)
        for trigger in (load.click, self.widget.submit):
            page.on(trigger, self._load, [self.widget], quiet=True)
        page.live.show([facts], self._app.tensors_version, lambda: [self._facts()])

    def pace(self) -> dict[str, int]:
        """Epochs for the songs at hand, if they are wanted, by the names under which the values are kept."""
        if not self._app.settings.get("train.auto-epochs", True):
            return {}
        try:
            wanted = recommend_epochs(len(self._app.tensors().paths))
        except AceStepError:
            return {}
        return dict(zip(map(self._training.key, _PACE), wanted, strict=True))

    def _load(self, text: str) -> None:
        self._app.settings.put({"train.tensors": text})
        self._app.tensors()
        self._app.settings.push(self.pace())

    def _facts(self) -> str:
        try:
            manifest = self._app.tensors()
        except AceStepError as error:
            return html.notice("No tensors here yet", [describe_error(error)], "warn")
        songs = html.count(len(manifest.paths), "song")
        epochs, every = recommend_epochs(len(manifest.paths))
        tag = manifest.metadata.get("custom_tag")
        words = [
            songs,
            f"trigger word {tag}" if tag else "no trigger word",
            f"encoded with {manifest.preprocessing.get('model_checkpoint', 'an unknown model')}",
        ]
        advice = f"{epochs} epochs are suggested for {songs}, a checkpoint every {every}."
        return html.notice(", ".join(words), [advice, *manifest.problems[:3]], "warn" if manifest.problems else "good")
