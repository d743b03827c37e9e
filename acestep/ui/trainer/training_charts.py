"""Charts of a training run while it runs: training and validation loss, and the learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from acestep.ui.chart import Points, Series, line_chart, smooth, thin
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.watch import JobView

SMOOTHED = "smoothed"
_DEFAULT_SMOOTHING = 0.9


def loss_series(view: JobView, smoothing: float) -> list[Series]:
    """The series of the loss chart."""
    steps = [(event.step, event.loss) for event in view.steps]
    fit = [(event.step, event.fit_loss) for event in view.epochs if event.fit_loss is not None]
    validation = [(event.step, event.validation_loss) for event in view.epochs if event.validation_loss is not None]
    return [
        Series("each step", thin(steps), "#94a3b8"),
        Series(SMOOTHED, thin(smooth(steps, smoothing)), "#0d9488"),
        Series("fit", fit, "#2563eb"),
        Series("validation", validation, "#d97706"),
    ]


class TrainingCharts:
    """The charts of the latest training run."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        with gr.Row(equal_height=False, visible=False) as self._row:
            with gr.Column(scale=3, min_width=300):
                self._loss = gr.HTML(elem_id="tr-train-loss")
            with gr.Column(scale=2, min_width=280):
                self._learning_rate = gr.HTML(elem_id="tr-train-rate")
                smoothing = gr.Slider(
                    0, 0.99, value=_DEFAULT_SMOOTHING, step=0.01, label="Smoothing", elem_id="tr-train-smoothing"
                )
        page.saved_fields.add("train.smoothing", smoothing)
        page.on(smoothing.release, self._save, [smoothing])
        page.live.add([self._row, self._loss, self._learning_rate], self._version, self._render)

    def _save(self, value: float) -> None:
        self._app.settings.put({"train.smoothing": value})

    def _version(self) -> object:
        watch = self._app.watches["train"]
        _, view = watch.read()
        last = view.steps[-1].step if view.steps else 0
        return watch.folder, last, len(view.steps), len(view.epochs), self._smoothing

    @property
    def _smoothing(self) -> float:
        return float(self._app.settings.get("train.smoothing", _DEFAULT_SMOOTHING))

    def _render(self) -> Sequence[Any]:
        _, view = self._app.watches["train"].read()
        rates: Points = thin([(event.step, event.lr) for event in view.steps])
        return (
            gr.update(visible=bool(view.steps)),
            line_chart(loss_series(view, self._smoothing), "Loss", "step"),
            line_chart([Series("learning rate", rates)], "Learning rate", "step"),
        )
