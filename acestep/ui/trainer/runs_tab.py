"""Runs: all training runs on disk: compare, repeat or delete them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.errors import JobError
from acestep.core.jobs import read_job
from acestep.core.runs import RunSummary, read_run
from acestep.training.configs import TrainJob
from acestep.ui import html, layout
from acestep.ui.chart import COLORS, Series, line_chart, smooth, thin
from acestep.ui.errors import notify
from acestep.ui.trainer.audio_grid import make_grid
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.run_previews import latest_preview_grid
from acestep.ui.trainer.runs import delete_run, differences, flat_settings, trainings, view_of
from acestep.ui.trainer.train_settings import TrainSettings
from acestep.ui.trainer.training_charts import SMOOTHED

_HEADERS = ["Name", "Date", "Model", "Adapter", "Epochs", "Steps", "Loss", "Validation", "State"]
_MOST = len(COLORS)  # runs side by side
_SMOOTHING = 0.9
_SELECTED = "runs.selected"
_EMPTY = "Training runs of this page and of the command line are listed here."


class RunsTab:
    """Components and listeners."""

    def __init__(self, page: TrainerContext, settings: TrainSettings) -> None:
        self._page, self._app, self._settings = page, page.app, settings
        self._names: tuple[str, ...] = ()  # of the runs in the list
        self._list = gr.HTML(elem_id="tr-runs-list")
        with gr.Column(visible=False) as self._body:
            self._chosen = gr.Dropdown(
                [],
                label="Runs to show",
                info=f"One run, or up to {_MOST} to compare.",
                multiselect=True,
                max_choices=_MOST,
                elem_id="tr-runs-chosen",
            )
            self._curves = gr.HTML(elem_id="tr-runs-curves")
            self._sounds = make_grid("tr-runs-sounds")
            self._about = gr.HTML(elem_id="tr-runs-about")
            with layout.actions():
                again = gr.Button("Use these settings", elem_id="tr-runs-again")
            confirm, delete = self._remover()
        page.on(self._chosen.input, self._choose, [self._chosen])
        page.on(again.click, self._again, [self._chosen], [page.tabs])
        page.on(delete.click, self._delete, [confirm], [confirm])
        page.live.add([self._list, self._body], self._version, self._render)
        page.live.add([self._chosen], lambda: (self._names, self._selected), self._render_chosen)
        shown = [self._curves, self._sounds, self._about]
        page.live.add(shown, lambda: (self._version(), self._selected), self._render_selected)

    def _remover(self) -> tuple[gr.Textbox, gr.Button]:
        fold = layout.section("Delete a run", "tr-runs-delete")
        with fold, layout.field_row():
            confirm = gr.Textbox(
                label="Name of the run",
                info="Deletes its checkpoints and adapters permanently. Enter its name to confirm.",
                elem_id="tr-runs-confirm",
                scale=5,
            )
            delete = gr.Button("Delete run", variant="stop", elem_id="tr-runs-delete-start", scale=0)
        return confirm, delete

    def _version(self) -> object:
        return tuple(self._app.run_folders()), self._app.watches["train"].read()[0]

    def _render(self) -> list[Any]:
        runs = trainings(self._app)
        self._names = tuple(run.folder.name for run in runs)
        table = html.table(_HEADERS, map(_row, runs), "Runs") if runs else html.notice("No run yet", [_EMPTY])
        return [table, gr.update(visible=bool(runs))]

    @property
    def _selected(self) -> tuple[str, ...]:
        """The selected runs, as long as one of them exists, or else the newest one."""
        selected, names = self._app.settings.get(_SELECTED), self._names
        if not isinstance(selected, list):
            return names[:1]
        existing = tuple(name for name in selected if name in names)
        return names[:1] if selected and not existing else existing

    def _choose(self, names: list[str] | None) -> None:
        self._app.settings.put({_SELECTED: names or []})

    def _render_chosen(self) -> list[Any]:
        return [gr.update(choices=list(self._names), value=list(self._selected))]

    def _summary(self, name: str) -> RunSummary:
        return read_run(self._app.runs_folder / Path(name).name)

    def _render_selected(self) -> tuple[str, str, str]:
        runs = [self._summary(name) for name in self._selected]
        curves: list[Series] = []
        for run in runs:
            raw = [(event.step, event.loss) for event in view_of(run.folder).steps]
            curves.append(Series(run.folder.name, thin(smooth(raw, _SMOOTHING))))
        if len(runs) > 1:
            rows = [(setting, *values) for setting, values in differences(runs)]
            words = (
                html.table(["Setting", *(run.folder.name for run in runs)], rows, "Settings that differ")
                if rows
                else _same()
            )
        else:
            words = html.facts(flat_settings(runs[0]), columns=True) if runs else ""
        return line_chart(curves, f"Loss, {SMOOTHED}", "step"), latest_preview_grid([run.folder for run in runs]), words

    def _again(self, names: list[str] | None) -> Any:
        if not names:
            raise JobError("no run is selected", hint="Select one above.")
        _, job = read_job(self._summary(names[0]).folder)
        if not isinstance(job, TrainJob):
            raise JobError(f"{names[0]} is not a training run")
        self._settings.show(job)
        notify(f"Copied the settings of {names[0]} to 4. Train.")
        return gr.Tabs(selected="train")

    def _delete(self, name: str) -> str:
        delete_run(self._app, name.strip())
        self._app.clear_cache()
        notify(f"Deleted {name}.")
        return ""


def _row(run: RunSummary) -> list[Any]:
    training = run.config.get("training", {})
    return [
        run.folder.name,
        time.strftime("%d %b %H:%M", time.localtime(run.started_s)) if run.started_s else "",
        Path(str(run.config.get("checkpoint", ""))).name,
        training.get("adapter_type", ""),
        f"{run.epoch} of {training.get('max_epochs', '?')}",
        run.step,
        _number(run.loss),
        _number(run.validation_loss),
        run.state,
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _same() -> str:
    return html.notice("The selected runs have the same settings.")
