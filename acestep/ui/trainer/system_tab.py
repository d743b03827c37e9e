"""System: is this computer ready, which models are here, and how to get more."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import gradio as gr

from acestep import __version__
from acestep.core.errors import ConfigError
from acestep.core.paths import PROJECT, checkpoint_roots
from acestep.doctor import Check, diagnose
from acestep.models.catalog import CATALOG, is_present
from acestep.ui import html
from acestep.ui.form import Form
from acestep.ui.jobs import DownloadJob
from acestep.ui.page_context import heading
from acestep.ui.progress import JobPanel
from acestep.ui.trainer.job_buttons import JobControls
from acestep.ui.trainer.page_context import TrainerContext


class SystemTab:
    """Widgets and what they do."""

    def __init__(self, page: TrainerContext) -> None:
        self._app = page.app
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=320):
                self._computer(page)
            with gr.Column(scale=1, min_width=320):
                self._models(page)

    def _computer(self, page: TrainerContext) -> None:
        heading("This computer")
        with gr.Row(elem_classes="ac-actions"):
            quick = gr.Button("Check again", elem_id="tr-system-check")
            deep = gr.Button("Check thoroughly", elem_id="tr-system-deep")
        checks = gr.HTML(elem_id="tr-system-checks")
        report = gr.Textbox(
            label="Report",
            info="To be copied into a question or a bug report; it names no song and no key.",
            lines=4,
            max_lines=8,
            interactive=False,
            buttons=["copy"],
            elem_id="tr-system-report",
        )
        page.on(page.tab.select, self._check, [], [checks, report], quiet=True)
        page.on(quick.click, self._check, [], [checks, report], busy_on=checks)
        page.on(deep.click, self._check_deeply, [], [checks, report], busy_on=checks)

    def _models(self, page: TrainerContext) -> None:
        heading("Models")
        table = gr.HTML(elem_id="tr-system-models")
        names = gr.Dropdown(
            [(f"{model.name} ({model.size_gb:.1f} GB)", model.name) for model in CATALOG],
            label="Models to download",
            info="What a model needs comes along. A broken download goes on where it stopped.",
            multiselect=True,
            elem_id="tr-system-names",
        )
        self._form = Form(DownloadJob, "download", page.saved_fields, leave_out=("names", "root"))
        self._form.rest()
        buttons = JobControls(page, "download", "Download", "Stop Download")
        watch = self._app.watches["download"]
        JobPanel(
            page.live,
            watch,
            "tr-download",
            nothing_yet="From huggingface.co, or modelscope.cn. Nothing else here leaves this computer.",
            result=lambda result: html.notice("Downloaded", result.get("folders", []), "good"),
        )
        page.on(buttons.start.click, self._download, [names, *self._form.widgets])
        page.live.show([table], lambda: (watch.look()[0], self._app.checkpoints_folder), self._render_models)

    def _check(self) -> tuple[str, str]:
        return self._told(diagnose(checkpoints=self._app.checkpoints_folder))

    def _check_deeply(self) -> tuple[str, str]:
        return self._told(diagnose(deep=True, checkpoints=self._app.checkpoints_folder))

    def _told(self, checks: list[Check]) -> tuple[str, str]:
        troubles = [check for check in checks if not check.ok]
        rows = [("ok" if check.ok else "wrong", check.name, check.detail) for check in checks]
        cards = "".join(html.notice(f"{check.name}: {check.detail}", [check.hint], "bad") for check in troubles)
        good = html.notice("Everything that is needed is here.", tone="good")
        head = f"acestep {__version__}, {platform.platform()}"
        report = "\n".join([head, *(f"{state}  {name}: {detail}" for state, name, detail in rows)])
        return (cards or good) + html.table(["", "What", "Found"], rows, "Checks"), report

    def _render_models(self) -> list[str]:
        roots = checkpoint_roots(self._app.checkpoints_folder)
        rows = [
            (
                model.name,
                "here" if any(is_present(model.name, root) for root in roots) else "",
                f"{model.size_gb:.1f} GB",
                model.about,
            )
            for model in CATALOG
        ]
        return [html.table(["Model", "", "Size", "For"], rows, "Models")]

    def _download(self, names: list[str] | None, *values: Any) -> None:
        if not names:
            raise ConfigError(["no model is chosen"], hint="Choose what to download above.")
        root = self._app.checkpoints_folder or PROJECT / "checkpoints"
        config = self._form.read(values, names=names, root=root)
        self._app.start("download", config, Path(self._app.workspace.memory / "download"))
