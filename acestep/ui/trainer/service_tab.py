"""1. Service: select the base model, check that it is complete, and load it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError
from acestep.core.paths import PROJECT
from acestep.core.untrusted import is_file, is_folder
from acestep.models.checkpoint import Checkpoint, check_checkpoint, check_vae_and_text_encoder
from acestep.ui import html, layout
from acestep.ui.errors import describe_error, notify
from acestep.ui.jobs import DownloadJob
from acestep.ui.trainer.page_context import TrainerContext

_MAIN = "main"
_FIRST = "No model was found. Start with the turbo model; the tiny demo model is only for trying out the program."
_USE = {
    "turbo": "8 steps, no guidance, shift 3. Distilled for fast generation.",
    "base": "60 steps, guidance 7, shift 1. Not distilled.",
    "sft": "60 steps, guidance 7, shift 1. Base, fine-tuned to follow prompts.",
}


class ServiceTab:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._page, self._app = page, page.app
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=300):
                self._create_fields()
            with gr.Column(scale=2, min_width=280):
                self._about = gr.HTML(elem_id="tr-service-about")
        page.live.add([self._menu], self._menu_version, self._render_menu)
        page.live.add([self._about, self._first], self._about_version, self._render_about)

    def _create_fields(self) -> None:
        with layout.field_row():
            folder = gr.Textbox(
                label="Checkpoints Folder (optional)",
                info="If your models are not in checkpoints. On the computer that runs this program.",
                elem_id="tr-service-folder",
                scale=4,
            )
            find = gr.Button("Find models", elem_id="tr-service-look", scale=0)
        self._page.saved_fields.add("service.folder", folder)
        self._menu = gr.Dropdown(
            [],
            label="Model Checkpoint",
            info="Tensors, adapters and generations use the model that is selected here.",
            elem_id="tr-service-checkpoint",
            allow_custom_value=True,
        )
        with layout.actions():
            load = gr.Button("Initialize Service", variant="primary", elem_id="tr-service-load")
            free = gr.Button("Unload", elem_id="tr-service-unload")
        with gr.Column(visible=False) as self._first:
            gr.HTML(html.notice("No model yet", [_FIRST]))
            with layout.actions():
                fetch = gr.Button("Download the turbo model (6.4 GB)", elem_id="tr-service-download")
                tiny = gr.Button("Create the tiny demo model", elem_id="tr-service-tiny")
        on = self._page.on
        for trigger in (find.click, folder.submit):
            on(trigger, self._look, [folder])
        on(self._menu.input, self._choose, [self._menu])
        self._page.unconfirmed_text.add("service.checkpoint", self._menu, self._choices)
        on(load.click, self._load, busy_on=self._menu)
        on(free.click, self._unload)
        on(fetch.click, self._download)
        on(tiny.click, self._make_tiny, busy_on=self._menu)
        self._page.go_to(fetch, "system")

    def _look(self, text: str) -> None:
        """The path may be a model or a folder of models."""
        text, chosen = text or "", ""
        if text.strip():
            folder = self._app.workspace.folder(text, "Checkpoints Folder")
            if is_file(folder / "config.json") or is_folder(folder / "transformer"):
                text, chosen = str(folder.parent), str(folder)
        self._app.settings.push({"service.folder": text})
        found = self._app.checkpoints()
        if chosen or not self._app.settings.text("service.checkpoint"):
            chosen = chosen or (str(found[0].folder) if found else "")
            self._app.settings.put({"service.checkpoint": chosen})
        notify(f"Found {html.count(len(found), 'model')}.")

    def _choose(self, value: str | None) -> None:
        self._app.settings.put({"service.checkpoint": value or ""})

    def _load(self) -> None:
        checkpoint = self._app.checkpoint()
        self._app.require_idle()
        self._app.service.initialize(checkpoint.folder.resolve())
        notify(f"{checkpoint.name} is ready.")

    def _unload(self) -> None:
        self._app.service.unload()

    def _download(self) -> None:
        root = self._app.checkpoints_folder or PROJECT / "checkpoints"
        folder = self._app.workspace.state_folder / "download"
        self._app.start("download", DownloadJob(names=[_MAIN], root=root), folder)

    def _make_tiny(self) -> None:
        from acestep.models.tiny import create_tiny_checkpoint

        made = create_tiny_checkpoint(self._app.workspace.root / "checkpoints" / "tiny")
        self._app.settings.push({"service.folder": str(made.parent), "service.checkpoint": str(made)})
        notify("The tiny demo model is ready. It generates noise, but quickly.")

    def _choices(self) -> list[tuple[str, str]]:
        return [(model.name, str(model.folder)) for model in self._app.checkpoints()]

    def _menu_version(self) -> object:
        return tuple(self._choices()), self._app.settings.text("service.checkpoint")

    def _render_menu(self) -> list[Any]:
        return [gr.update(choices=self._choices(), value=self._app.settings.text("service.checkpoint") or None)]

    def _about_version(self) -> object:
        service = self._app.service
        return self._menu_version(), service.loading_status, service.loaded, service.problem

    def _render_about(self) -> list[Any]:
        nothing = not self._app.settings.text("service.checkpoint") and not self._app.checkpoints()
        try:
            words = self._loading() + self._describe(self._app.checkpoint())
        except AceStepError as error:
            words = "" if nothing else html.notice("No model is selected", [describe_error(error)], "warn")
        return [words, gr.update(visible=nothing)]

    def _loading(self) -> str:
        """The progress of loading, or why it failed."""
        service = self._app.service
        if service.loading_status:
            bar = html.progress_bar(*service.loaded_bytes, "Loading")
            return html.notice(service.loading_status, tone="busy") + bar
        return html.notice("The model was not loaded", [service.problem], "bad") if service.problem else ""

    def _describe(self, checkpoint: Checkpoint) -> str:
        about = {
            "Type": f"{checkpoint.variant}, {'4B (XL)' if checkpoint.family == 'xl' else '2B'}",
            "Made for": _USE.get(checkpoint.variant, ""),
            "Folder": checkpoint.folder,
        }
        loaded = self._app.service.loaded
        if loaded is not None:
            about |= {"Loaded": loaded.name}
            about |= {"Device": f"{loaded.device}: {loaded.device_reason}"}
            about |= {"Precision": f"{loaded.precision}: {loaded.precision_reason}"}
        try:
            check_checkpoint(checkpoint)
            check_vae_and_text_encoder(checkpoint)
        except AceStepError as error:
            return html.notice("This model is incomplete", [describe_error(error)], "bad") + html.facts(about)
        ready = "loaded" if loaded is not None else "complete"
        return html.notice(f"{checkpoint.name}: {ready}", tone="good") + html.facts(about)
