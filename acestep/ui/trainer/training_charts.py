"""Loss and learning rate while a run goes: raw, smoothed, and what was measured on songs that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
import pandas as pd

from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.watch import Account

MOST_POINTS = 400  # a chart is about a thousand pixels wide
EACH, SMOOTH, FIT, VALIDATION = "each step", "smoothed", "fit", "validation"
COLORS = {EACH: "#94a3b8", SMOOTH: "#0d9488", FIT: "#2563eb", VALIDATION: "#d97706"}
_SMOOTHING = 0.9

Points = list[tuple[int, float]]


def thin(points: Points, most: int = MOST_POINTS) -> Points:
    """At most ``most`` points, the last one always kept."""
    every = -(-len(points) // most)
    return points[::-1][::every][::-1] if every > 1 else points


def smooth(points: Points, share: float) -> Points:
    """Each value as a mean over those before it, of which the latest counts 1 - ``share``; unbiased at the start."""
    smoothed, mean, weight = [], 0.0, 0.0
    for step, value in points:
        mean = share * mean + (1 - share) * value
        weight = share * weight + (1 - share)
        smoothed.append((step, mean / weight))
    return smoothed


def loss_points(account: Account, smoothing: float) -> dict[str, Points]:
    """Every series of the loss chart by its name."""
    raw = [(event.step, event.loss) for event in account.steps]
    series = {EACH: thin(raw), SMOOTH: thin(smooth(raw, smoothing))}
    fit = [(event.step, event.fit_loss) for event in account.epochs if event.fit_loss is not None]
    held_out = [(event.step, event.validation_loss) for event in account.epochs if event.validation_loss is not None]
    return {name: points for name, points in {**series, FIT: fit, VALIDATION: held_out}.items() if points}


def frame(series: dict[str, Points], value: str) -> pd.DataFrame:
    """Long form, with numeric columns even when empty: else the chart takes numbers for names, for good."""
    rows = [(name, step, number) for name, points in series.items() for step, number in points]
    return pd.DataFrame(
        {
            "step": pd.Series([row[1] for row in rows], dtype="int64"),
            value: pd.Series([row[2] for row in rows], dtype="float64"),
            "curve": pd.Series([row[0] for row in rows], dtype="str"),
        }
    )


class TrainingCharts:
    """The charts of the newest training."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        with gr.Row(equal_height=False, visible=False) as self._row:
            with gr.Column(scale=3, min_width=300):
                self._loss = gr.LinePlot(
                    frame({}, "loss"),
                    x="step",
                    y="loss",
                    color="curve",
                    color_map=COLORS,
                    title="Loss",
                    height=280,
                    show_label=False,
                    elem_id="tr-train-loss",
                )
            with gr.Column(scale=2, min_width=280):
                self._rate = gr.LinePlot(
                    frame({}, "rate"),
                    x="step",
                    y="rate",
                    title="Learning rate",
                    height=280,
                    show_label=False,
                    elem_id="tr-train-rate",
                )
                smoothing = gr.Slider(
                    0, 0.99, value=_SMOOTHING, step=0.01, label="Smoothing", elem_id="tr-train-smoothing"
                )
        page.saved_fields.add("train.smoothing", smoothing)
        page.on(smoothing.release, self._keep, [smoothing], quiet=True)
        page.live.show([self._row, self._loss, self._rate], self._version, self._render)

    def _keep(self, value: float) -> None:
        self._app.settings.put({"train.smoothing": value})

    def _version(self) -> object:
        watch = self._app.watches["train"]
        _, account = watch.look()
        last = account.steps[-1].step if account.steps else 0
        return watch.folder, last, len(account.steps), len(account.epochs), self._smoothing

    @property
    def _smoothing(self) -> float:
        return float(self._app.settings.get("train.smoothing", _SMOOTHING))

    def _render(self) -> Sequence[Any]:
        _, account = self._app.watches["train"].look()
        rates = {"rate": thin([(event.step, event.lr) for event in account.steps])}
        losses = frame(loss_points(account, self._smoothing), "loss")
        return gr.update(visible=bool(account.steps)), losses, frame(rates, "rate")
