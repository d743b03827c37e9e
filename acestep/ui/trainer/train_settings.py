"""The settings of a training run: tensors, output folder, preset, adapter and all training fields."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import fields, groups
from acestep.core.errors import AceStepError
from acestep.core.paths import safe_name
from acestep.training.configs import TrainJob
from acestep.ui import html, layout
from acestep.ui.form import Data, Form
from acestep.ui.trainer.app_state import RUNS, TENSORS
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.preset_picker import CUSTOM, PresetPicker
from acestep.ui.trainer.recommended_epochs import RecommendedEpochs
from acestep.ui.trainer.tensors_picker import TensorsPicker

_ADAPTER_FIELDS = ("adapter_type", "attention_type", "train_mlp")
_SECTIONS = {
    "Duration": ("max_epochs", "save_every_n_epochs", "auto_save_best_after", "early_stop_patience"),
    "Optimization": ("learning_rate", "optimizer_type", "scheduler_type", "batch_size", "gradient_accumulation_steps"),
    "Memory": ("max_latent_length", "gradient_checkpointing"),
}
_LINES = {"prompt": 3, "lyrics": 3}
_SET_ELSEWHERE = ("tensor_dir", "checkpoint", "out", "resume")


class TrainSettings:
    """Components and listeners; ``read`` makes a training job from their values."""

    def __init__(self, page: TrainerContext) -> None:
        self._page, self._app = page, page.app
        self.forms: dict[str, Form[Any]] = {
            name: Form(config, name, page.saved_fields, lines=_LINES) for name, config in groups(TrainJob).items()
        }
        self._tensors = TensorsPicker(page)
        recommended = RecommendedEpochs(page, self.forms["training"])
        with layout.grid():
            self._out, self._name = self._create_output()
            self.preset = PresetPicker(page, self.forms, recommended)
        page.changes.place(page, ("preset", "run"), "tr-train")
        self._create_adapters()
        training = self.forms["training"]
        for title, names in _SECTIONS.items():
            layout.heading(title)
            training.place(*names)
            if title == "Duration":
                recommended.place()
        training.place_rest("More settings", collapsed=True)
        for name in (name for name in self.forms if name not in ("training", *ADAPTERS.names)):
            self.forms[name].place_rest(str(fields(TrainJob)[name].title), collapsed=True)
        self._device = Form(TrainJob, "run", page.saved_fields, leave_out=_SET_ELSEWHERE)
        self._device.place_rest("Device", collapsed=True)

    @property
    def inputs(self) -> set[Component]:
        """The components whose values ``read`` and ``check`` use."""
        of_forms = {component for form in self._all_forms for component in form.inputs}
        return {*of_forms, self._tensors.component, self._out, self._name}

    def check(self, data: Data) -> dict[Component, str]:
        """The invalid values, each with what is wrong."""
        return {component: problem for form in self._all_forms for component, problem in form.check(data).items()}

    def read(self, data: Data) -> TrainJob:
        """A new run with those values. Raises ConfigError, StorageError, CheckpointError."""
        tensors, out, name = data[self._tensors.component], data[self._out], data[self._name]
        self._app.settings.put({"train.tensors": tensors, "train.out": out, "train.name": name})
        return self._device.read(
            data,
            tensor_dir=self._app.workspace.folder(tensors, "Tensors Directory"),
            checkpoint=str(self._app.checkpoint().folder.resolve()),
            out=self._app.free_run_folder(safe_name(name.strip() or self._default_name)),
            **{group: form.read(data) for group, form in self.forms.items()},
        )

    def current(self) -> TrainJob:
        """The saved values of the fields, for a run that has not started. Raises ConfigError."""
        settings = self._app.settings
        return self._device.read(
            self._device.saved,
            tensor_dir=settings.text("train.tensors", TENSORS),
            checkpoint=settings.text("service.checkpoint"),
            out=settings.text("train.out", RUNS),
            **{name: form.read(form.saved) for name, form in self.forms.items()},
        )

    def show(self, job: TrainJob) -> None:
        """Show the settings of a run in the fields."""
        values = self.values(job)
        self._page.changes.apply("run", f"Copied the settings of {job.out.name}", values, entered=values, final=True)

    def values(self, job: TrainJob) -> dict[str, Any]:
        """The values of the fields that show the settings of ``job``, by key."""
        values: dict[str, Any] = {"train.preset": CUSTOM, "train.tensors": str(job.tensor_dir)}
        for name, form in self.forms.items():
            values |= form.to_saved(getattr(job, name))
        return values | self._device.to_saved(job)

    @property
    def _all_forms(self) -> list[Form[Any]]:
        return [*self.forms.values(), self._device]

    def _create_output(self) -> tuple[gr.Textbox, gr.Textbox]:
        title = fields(TrainJob)["out"].title
        out = gr.Textbox(RUNS, label=title, info="Each run gets its own folder in it.", elem_id="tr-train-out")
        info = "Empty: the name of the dataset. A number is appended if the name is taken."
        name = gr.Textbox(label="Run name", info=info, elem_id="tr-train-name")
        self._page.saved_fields.add("train.out", out)
        self._page.saved_fields.add("train.name", name)
        return out, name

    def _create_adapters(self) -> None:
        """The kind of adapter, and the settings of the selected kind."""
        layout.heading("Adapter")
        training = self.forms["training"]
        training.place(*_ADAPTER_FIELDS)
        columns = {}
        for kind in (name for name in self.forms if name in ADAPTERS.names):
            with gr.Column(visible=kind == self._app.adapter_kind, elem_id=f"tr-train-{kind}") as columns[kind]:
                gr.HTML(f'<p class="ac-phase">{html.text(ADAPTERS[kind].help)}</p>')
                self.forms[kind].place_rest(f"More {ADAPTERS[kind].label} settings")
        adapter_type: Any = training.component("adapter_type")
        self._page.on(adapter_type.input, self._select_adapter, [adapter_type])
        self._page.live.add(
            list(columns.values()),
            lambda: self._app.adapter_kind,
            lambda: [gr.update(visible=kind == self._app.adapter_kind) for kind in columns],
        )

    def _select_adapter(self, kind: str) -> None:
        self._app.settings.put({"training.adapter_type": kind})
        self.preset.apply_again()

    @property
    def _default_name(self) -> str:
        try:
            return str(self._app.tensors().metadata.get("name") or "my_lora")
        except AceStepError:
            return "my_lora"
