"""The recommended epochs for the number of songs, beside their fields. They follow until a person enters a value."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError
from acestep.training.presets import recommend_epochs
from acestep.ui import html
from acestep.ui.form import Form
from acestep.ui.trainer.page_context import TrainerContext

FIELDS = ("max_epochs", "save_every_n_epochs")
AUTOMATIC = "train.auto-epochs"  # key of the checkbox


class RecommendedEpochs:
    """The recommended values, and the components that show and apply them."""

    def __init__(self, page: TrainerContext, training: Form[Any]) -> None:
        self._page, self._app = page, page.app
        self.keys = [training.key(name) for name in FIELDS]
        self._counted: tuple[object, int] = (None, 0)  # version of the tensors, number of their songs

    @property
    def automatic(self) -> bool:
        """Whether the fields follow the recommendation."""
        return bool(self._app.settings.get(AUTOMATIC, True))

    @property
    def songs(self) -> int:
        """The number of songs of the selected tensors; without tensors, that of the dataset."""
        version = self._app.tensors_version()
        if self._counted[0] != version:
            try:
                count = len(self._app.tensors().paths)
            except AceStepError:
                count = 0
            self._counted = version, count
        return self._counted[1] or len(self._app.dataset.samples)

    @property
    def values(self) -> dict[str, int]:
        """The recommended values by the keys of their fields; empty without songs."""
        songs = self.songs
        return dict(zip(self.keys, recommend_epochs(songs), strict=True)) if songs else {}

    def place(self) -> None:
        """Create the components here, after those of the fields."""
        with gr.Row(elem_classes="ac-prerequisite", visible=False) as row:
            advice = gr.HTML(elem_id="tr-train-recommended")
            buttons = [gr.Button("", size="sm", scale=0, elem_id=f"tr-train-use-{name}") for name in ("epochs", "save")]
        for button, key in zip(buttons, self.keys, strict=True):
            self._page.on(button.click, self._user_of(key))
        self._page.changes.place(self._page, ("epochs",), "tr-epochs")
        self._page.live.add([row, advice, *buttons], self._version, self._render)

    def _user_of(self, key: str) -> Any:
        def use() -> None:
            """From now on, the field follows the recommendation again."""
            if key in self.values:
                self._page.changes.apply("epochs", "Set the recommended value", {key: self.values[key]})

        return use

    def _version(self) -> object:
        settings, fields = self._app.settings, self._page.saved_fields
        shown = tuple((str(fields.value(key)), settings.is_entered(key)) for key in self.keys)
        return self.songs, self.automatic, shown

    def _render(self) -> list[Any]:
        """Apply the recommendation where nobody has entered a value, and show it."""
        values, fields = self.values, self._page.saved_fields
        if not values:
            return [gr.update(visible=False), *(gr.skip() for _ in range(3))]
        if self.automatic:
            fields.suggest(values)
        epochs, every = values.values()
        entered = [fields.label(key) for key in self.keys if self._app.settings.is_entered(key)]
        words = f"Recommended for {html.count(self.songs, 'song')}: {epochs} epochs, a checkpoint every {every}."
        words += f" You entered {' and '.join(entered)}." if entered else ""
        labels = (f"Use {epochs} epochs", f"Save every {every} epochs")
        return [
            gr.update(visible=True),
            f'<p class="ac-phase">{html.text(words)}</p>',
            *(
                gr.update(value=label, visible=fields.value(key) != value)
                for label, (key, value) in zip(labels, values.items(), strict=True)
            ),
        ]
