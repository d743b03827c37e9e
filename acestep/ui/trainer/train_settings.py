"""The settings of a training: tensors, place, preset, adapter, and everything a run can be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import fields, groups
from acestep.core.errors import AceStepError
from acestep.core.paths import safe_name
from acestep.training.configs import TrainJob
from acestep.ui import html
from acestep.ui.form import Form
from acestep.ui.page_context import heading
from acestep.ui.trainer.app_state import RUNS, TENSORS
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.preset_picker import CUSTOM, PresetPicker
from acestep.ui.trainer.tensors_picker import TensorsPicker

_KIND = ("adapter_type", "attention_type", "train_mlp")
_SECTIONS = {
    "How long": ("max_epochs", "save_every_n_epochs", "auto_save_best_after", "early_stop_patience"),
    "Learning": ("learning_rate", "optimizer_type", "scheduler_type", "batch_size", "gradient_accumulation_steps"),
    "Memory": ("max_latent_length", "gradient_checkpointing"),
}
_TEXTS = {"prompt": 3, "lyrics": 3}
_SET_ELSEWHERE = ("tensor_dir", "checkpoint", "out", "resume")


class TrainSettings:
    """Widgets and what they do; ``read`` makes a job of them."""

    def __init__(self, page: TrainerContext) -> None:
        self._shell, self._app = page, page.app
        self.forms: dict[str, Form[Any]] = {
            name: Form(config, name, page.saved_fields, lines=_TEXTS) for name, config in groups(TrainJob).items()
        }
        self._tensors = TensorsPicker(page, self.forms["training"])
        with gr.Row(elem_classes="ac-grid"):
            self._out, self._name = self._make_place()
            self._preset = PresetPicker(page, self.forms, self._tensors.pace)
        self._make_adapters()
        training = self.forms["training"]
        for title, names in _SECTIONS.items():
            heading(title)
            training.place(*names)
        training.rest("More settings", folded=True)
        for name in (name for name in self.forms if name not in ("training", *ADAPTERS.names)):
            self.forms[name].rest(str(fields(TrainJob)[name].title), folded=True)
        self._where = Form(TrainJob, "run", page.saved_fields, leave_out=_SET_ELSEWHERE)
        self._where.rest("Device", folded=True)

    @property
    def inputs(self) -> list[Component]:
        """The widgets that ``read`` and ``check`` take the values of."""
        of_forms = [widget for form in self.forms.values() for widget in form.widgets]
        return [*of_forms, *self._where.widgets, self._tensors.widget, self._out, self._name]

    def check(self, *values: Any) -> list[str]:
        """What is wrong with each of them."""
        answers: list[str] = []
        for form in (*self.forms.values(), self._where):
            answers += form.check(*values[len(answers) : len(answers) + len(form.names)])
        return [*answers, *("" for _ in values[len(answers) :])]

    def read(self, values: Sequence[Any]) -> TrainJob:
        """A new run with those values. Raises ConfigError, StorageError, CheckpointError."""
        configs, rest = {}, list(values)
        for name, form in self.forms.items():
            configs[name] = form.read(rest[: len(form.names)])
            rest = rest[len(form.names) :]
        *where, tensors, out, name = rest
        self._app.settings.put({"train.tensors": tensors, "train.out": out, "train.name": name})
        return self._where.read(
            where,
            tensor_dir=self._app.workspace.folder(tensors, "Tensors Directory"),
            checkpoint=str(self._app.checkpoint().folder.resolve()),
            out=self._app.free_run_folder(safe_name(name.strip() or self._default_name)),
            **configs,
        )

    def current(self) -> TrainJob:
        """The settings as they stand in the fields, for a run that is not begun. Raises ConfigError."""
        settings = self._app.settings
        return self._where.read(
            self._where.current,
            tensor_dir=settings.text("train.tensors", TENSORS),
            checkpoint=settings.text("service.checkpoint"),
            out=settings.text("train.out", RUNS),
            **{name: form.read(form.current) for name, form in self.forms.items()},
        )

    def take(self, job: TrainJob) -> None:
        """Put the settings of a run into the widgets."""
        values: dict[str, Any] = {"train.preset": CUSTOM, "train.tensors": str(job.tensor_dir)}
        for name, form in self.forms.items():
            values |= form.to_saved(getattr(job, name))
        values |= self._where.to_saved(job)
        self._app.settings.push(values)

    def _make_place(self) -> tuple[gr.Textbox, gr.Textbox]:
        about = fields(TrainJob)["out"]
        info = "Each run gets a folder of its own in it."
        out = gr.Textbox(RUNS, label=about.title, info=info, elem_id="tr-train-out")
        info = "Empty: the name of the dataset. A number is added if it is taken."
        name = gr.Textbox(label="Run name", info=info, elem_id="tr-train-name")
        self._shell.saved_fields.add("train.out", out)
        self._shell.saved_fields.add("train.name", name)
        return out, name

    def _make_adapters(self) -> None:
        """The kind of adapter, and the settings of each kind, of which those of the chosen one are shown."""
        heading("Adapter")
        training = self.forms["training"]
        training.place(*_KIND)
        columns = {}
        for kind in (name for name in self.forms if name in ADAPTERS.names):
            with gr.Column(visible=kind == self._app.adapter_kind, elem_id=f"tr-train-{kind}") as columns[kind]:
                gr.HTML(f'<p class="ac-phase">{html.text(ADAPTERS[kind].help)}</p>')
                self.forms[kind].rest(f"More about {ADAPTERS[kind].label}")
        chosen: Any = training.widget("adapter_type")
        self._shell.on(chosen.input, self._choose_adapter, [chosen], quiet=True)
        self._shell.live.show(
            list(columns.values()),
            lambda: self._app.adapter_kind,
            lambda: [gr.update(visible=kind == self._app.adapter_kind) for kind in columns],
        )

    def _choose_adapter(self, kind: str) -> None:
        self._app.settings.put({"training.adapter_type": kind})
        self._preset.apply_again()

    @property
    def _default_name(self) -> str:
        try:
            return str(self._app.tensors().metadata.get("name") or "my_lora")
        except AceStepError:
            return "my_lora"
