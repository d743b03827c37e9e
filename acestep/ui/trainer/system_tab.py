"""System: checks of this computer, the models on it, and downloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.errors import ConfigError
from acestep.core.paths import PROJECT, checkpoint_roots
from acestep.models.catalog import CATALOG, is_present
from acestep.ui import html, layout
from acestep.ui.form import Form
from acestep.ui.jobs import DownloadJob
from acestep.ui.page_context import Data
from acestep.ui.progress import JobPanel
from acestep.ui.system_checks import SystemChecks
from acestep.ui.trainer.page_context import TrainerContext

_NAMES = "download.names"


class SystemTab:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                SystemChecks(page, "tr", lambda: self._app.checkpoints_folder)
            with gr.Column(scale=1, min_width=320):
                self._create_models(page)

    def _create_models(self, page: TrainerContext) -> None:
        layout.heading("Models")
        table = gr.HTML(elem_id="tr-system-models")
        self._names = gr.Dropdown(
            [(f"{model.name} ({model.size_gb:.1f} GB)", model.name) for model in CATALOG],
            label="Models to download",
            info="Models that they depend on are included. An interrupted download resumes.",
            multiselect=True,
            elem_id="tr-system-names",
        )
        self._form = Form(DownloadJob, "download", page.saved_fields, leave_out=("names", "root"))
        self._form.place_rest()
        controls = page.job_controls("download", "Download", "Stop Download")
        watch = self._app.watches["download"]
        JobPanel(
            page.live,
            watch,
            "tr-download",
            nothing_yet="Downloads come from huggingface.co or modelscope.cn. Nothing else here uses the network.",
            result=lambda result: html.notice("Downloaded", result.get("folders", []), "good"),
        )
        page.on(controls.start.click, self._download, {self._names, *self._form.inputs}, check=self._form.check)
        page.on(self._names.input, self._select, [self._names])
        page.live.add([self._names], lambda: tuple(self._selected), lambda: [gr.update(value=self._selected)])
        page.live.add([table], lambda: (watch.read()[0], self._app.checkpoints_folder), self._render_models)

    def _render_models(self) -> list[str]:
        roots = checkpoint_roots(self._app.checkpoints_folder)
        rows = [
            (
                model.name,
                "yes" if any(is_present(model.name, root) for root in roots) else "no",
                f"{model.size_gb:.1f} GB",
                model.about,
            )
            for model in CATALOG
        ]
        return [html.table(["Model", "Downloaded", "Size", "Purpose"], rows, "Models")]

    def _select(self, names: list[str] | None) -> None:
        self._app.settings.put({_NAMES: names or []})

    @property
    def _selected(self) -> list[str]:
        """The models that the user selected."""
        saved = self._app.settings.get(_NAMES)
        names = [model.name for model in CATALOG]
        return [name for name in saved if name in names] if isinstance(saved, list) else []

    def _download(self, data: Data) -> None:
        names: list[Any] = data[self._names] or []
        if not names:
            raise ConfigError(["no model is selected"], hint="Select the models to download.")
        root = self._app.checkpoints_folder or PROJECT / "checkpoints"
        config = self._form.read(data, names=names, root=root)
        self._app.start("download", config, Path(self._app.workspace.state_folder / "download"))
