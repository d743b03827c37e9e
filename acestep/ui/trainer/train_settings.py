"""The settings of a training: tensors, preset, adapter, and everything a run can be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config, fields
from acestep.core.errors import AceStepError
from acestep.core.paths import safe_name
from acestep.core.registry import Registry
from acestep.training.configs import TrainJob, groups
from acestep.training.loss_weights import LOSS_WEIGHTS
from acestep.training.optimizers import OPTIMIZERS
from acestep.training.presets import gpu_presets, list_presets, preset_for_memory, read_preset, recommend_epochs
from acestep.training.schedules import SCHEDULES
from acestep.ui import html
from acestep.ui.errors import say, sentence
from acestep.ui.form import Form
from acestep.ui.trainer.shell import Shell, heading

CUSTOM = "custom"
_CHOICES: dict[str, Registry[Any]] = {
    "adapter_type": ADAPTERS,
    "optimizer_type": OPTIMIZERS,
    "scheduler_type": SCHEDULES,
    "loss_weighting": LOSS_WEIGHTS,
}
_PACE = ("max_epochs", "save_every_n_epochs")
_KIND = ("adapter_type", "attention_type", "train_mlp")
_SECTIONS = {
    "How long": ("max_epochs", "save_every_n_epochs", "auto_save_best_after", "early_stop_patience"),
    "Learning": (
        "learning_rate",
        "optimizer_type",
        "scheduler_type",
        "batch_size",
        "gradient_accumulation_steps",
    ),
    "Memory": ("max_latent_length", "gradient_checkpointing"),
}


class TrainSettings:
    """Widgets and what they do; ``read`` makes a job of them."""

    def __init__(self, shell: Shell) -> None:
        self._shell, self._desk = shell, shell.desk
        kept = shell.kept
        self.forms: dict[str, Form[Any]] = {
            name: Form(config, name, kept, choices=_CHOICES) for name, config in groups(TrainJob).items()
        }
        self._tensors = self._make_data()
        self._out, self._name = self._make_place()
        self._make_preset()
        self._make_adapters()
        training = self.forms["training"]
        for title, names in _SECTIONS.items():
            heading(title)
            training.place(*names)
        training.rest("More settings", folded=True)
        for name in (name for name in self.forms if name not in ("training", *ADAPTERS.names)):
            self.forms[name].rest(str(fields(TrainJob)[name].title), folded=True)

    @property
    def inputs(self) -> list[Component]:
        """The widgets that ``read`` and ``check`` take the values of."""
        return [
            *(widget for form in self.forms.values() for widget in form.widgets),
            self._tensors,
            self._out,
            self._name,
        ]

    def check(self, *values: Any) -> list[str]:
        """What is wrong with each of them."""
        answers: list[str] = []
        for form in self.forms.values():
            answers += form.check(*values[len(answers) : len(answers) + len(form.names)])
        return [*answers, *("" for _ in values[len(answers) :])]

    def read(self, values: Sequence[Any]) -> TrainJob:
        """A new run with those values. Raises ConfigError, StorageError, CheckpointError."""
        configs, rest = {}, list(values)
        for name, form in self.forms.items():
            configs[name] = form.read(rest[: len(form.names)])
            rest = rest[len(form.names) :]
        tensors, out, name = rest
        self._desk.settings.put({"train.tensors": tensors, "train.out": out, "train.name": name})
        run = safe_name(name.strip() or self._default_name)
        return TrainJob(
            tensor_dir=self._desk.places.folder(tensors, "Tensors Directory"),
            checkpoint=str(self._desk.checkpoint().folder.resolve()),
            out=self._desk.free_run_folder(run),
            **configs,
        )

    def take(self, job: TrainJob) -> None:
        """Put the settings of a run into the widgets."""
        values: dict[str, Any] = {"train.preset": CUSTOM, "train.tensors": str(job.tensor_dir)}
        for name, form in self.forms.items():
            values |= form.to_keep(getattr(job, name))
        self._desk.settings.push(values)

    # Building.

    def _make_data(self) -> gr.Textbox:
        with gr.Row(elem_classes="ac-with-button"):
            about = fields(TrainJob)["tensor_dir"]
            tensors = gr.Textbox(
                "datasets/preprocessed_tensors",
                label=about.title,
                info=about.description,
                elem_id="tr-train-tensors",
                scale=5,
            )
            load = gr.Button("Load", elem_id="tr-train-load", scale=0)
        facts = gr.HTML(elem_id="tr-train-facts")
        pace = gr.Checkbox(
            True,
            label="Auto-recommend epochs",
            info="Sets Max Epochs and Save Every N Epochs to what suits the number of songs when tensors are loaded.",
            elem_id="tr-train-auto",
        )
        kept, on = self._shell.kept, self._shell.on
        kept.add("train.tensors", tensors)
        kept.add("train.auto-epochs", pace)
        for trigger in (load.click, tensors.submit):
            on(trigger, self._load, [tensors], quiet=True)
        self._shell.live.show([facts], self._desk.tensors_version, lambda: [self._facts()])
        return tensors

    def _make_preset(self) -> None:
        presets = [(label, name) for label, name in gpu_presets().items()] + [(name, name) for name in list_presets()]
        names = [CUSTOM, *(name for _, name in presets)]
        with gr.Row(elem_classes="ac-grid"):
            preset = gr.Dropdown(
                [("Custom", CUSTOM), *presets],
                value=CUSTOM,
                label="GPU Preset",
                info="Sets the values below to what suits a graphics card; they can be changed afterwards.",
                elem_id="tr-train-preset",
            )
            with gr.Column(min_width=200):
                why = gr.HTML(elem_id="tr-train-suggestion")
                use = gr.Button("Use the suggested preset", size="sm", elem_id="tr-train-suggest")
        self._shell.kept.add("train.preset", preset, lambda value: value in names)
        self._shell.on(preset.input, self._apply, [preset], quiet=True)
        self._shell.on(use.click, self._apply_suggested, quiet=True)
        self._shell.live.show([why], self._preset_version, lambda: [self._preset_words()])

    def _make_place(self) -> tuple[gr.Textbox, gr.Textbox]:
        with gr.Row(elem_classes="ac-grid"):
            about = fields(TrainJob)["out"]
            out = gr.Textbox(
                "lora_output",
                label=about.title,
                info="Each run gets a folder of its own in it.",
                elem_id="tr-train-out",
            )
            name = gr.Textbox(
                label="Run name",
                info="Empty: the name of the dataset. A number is added if it is taken.",
                elem_id="tr-train-name",
            )
        self._shell.kept.add("train.out", out)
        self._shell.kept.add("train.name", name)
        return out, name

    def _make_adapters(self) -> None:
        """The kind of adapter, and the settings of each kind, of which those of the chosen one are shown."""
        heading("Adapter")
        training = self.forms["training"]
        training.place(*_KIND)
        columns = {}
        for kind in (name for name in self.forms if name in ADAPTERS.names):
            with gr.Column(visible=kind == self._adapter, elem_id=f"tr-train-{kind}") as columns[kind]:
                gr.HTML(f'<p class="ac-phase">{html.text(ADAPTERS[kind].help)}</p>')
                self.forms[kind].rest(f"More about {ADAPTERS[kind].label}")
        chosen: Any = training.widget("adapter_type")
        self._shell.on(chosen.input, self._choose_adapter, [chosen], quiet=True)
        self._shell.live.show(
            list(columns.values()),
            lambda: self._adapter,
            lambda: [gr.update(visible=kind == self._adapter) for kind in columns],
        )

    # What happens.

    @property
    def _adapter(self) -> str:
        return self._desk.settings.text("training.adapter_type", "lora")

    @property
    def _default_name(self) -> str:
        try:
            return str(self._desk.tensors().metadata.get("name") or "my_lora")
        except AceStepError:
            return "my_lora"

    def _choose_adapter(self, kind: str) -> None:
        self._desk.settings.put({"training.adapter_type": kind})
        preset = self._desk.settings.text("train.preset", CUSTOM)
        if preset != CUSTOM:
            self._apply(preset)

    def _apply(self, name: str) -> None:
        self._desk.settings.put({"train.preset": name})
        if name == CUSTOM:
            return
        preset = read_preset(name, self._adapter)
        self._desk.settings.push({**self._displayed(preset.settings), **self._pace()})
        say(preset.description)

    def _apply_suggested(self) -> None:
        name = self._suggestion()
        self._desk.settings.push({"train.preset": str(name)})
        self._apply(str(name))

    def _load(self, text: str) -> None:
        self._desk.settings.put({"train.tensors": text})
        self._desk.tensors()
        self._desk.settings.push(self._pace())

    def _pace(self) -> dict[str, int]:
        """Epochs for the songs at hand, if they are wanted."""
        if not self._desk.settings.get("train.auto-epochs", True):
            return {}
        try:
            epochs, every = recommend_epochs(len(self._desk.tensors().paths))
        except AceStepError:
            return {}
        return dict(zip((self.forms["training"].key(name) for name in _PACE), (epochs, every), strict=True))

    def _displayed(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings by qualified names, as their widgets hold them."""
        split = {key: key.partition(".") for key in settings}
        return {key: self.forms[split[key][0]].displayed(split[key][2], value) for key, value in settings.items()}

    def _facts(self) -> str:
        try:
            manifest = self._desk.tensors()
        except AceStepError as error:
            return html.card("No tensors here yet", [sentence(error)], "warn")
        songs = len(manifest.paths)
        epochs, every = recommend_epochs(songs)
        tag = manifest.metadata.get("custom_tag")
        words = [
            html.count(songs, "song"),
            f"trigger word {tag}" if tag else "no trigger word",
            f"encoded with {manifest.preprocessing.get('model_checkpoint', 'an unknown model')}",
        ]
        advice = f"{epochs} epochs are suggested for {html.count(songs, 'song')}, a checkpoint every {every}."
        return html.card(", ".join(words), [advice, *manifest.problems[:3]], "warn" if manifest.problems else "good")

    # Presets.

    def _suggestion(self) -> Any:
        card = self._desk.card
        return preset_for_memory(card.total_gb if card else 0)

    def _preset_version(self) -> object:
        values = tuple(
            self._desk.settings.get(key) for form in self.forms.values() for key in map(form.key, form.names)
        )
        return self._desk.card is not None, self._desk.settings.get("train.preset"), values

    def _preset_words(self) -> str:
        card, suggestion = self._desk.card, self._suggestion()
        reason = f"{card.name}: {suggestion.reason}" if card else "no NVIDIA card was found; it needs the least memory"
        words = f"<b>Suggested: {html.text(suggestion)}</b>, {html.text(reason)}."
        chosen = self._desk.settings.text("train.preset", CUSTOM)
        if chosen != CUSTOM and (changed := self._differing(chosen)):
            words += f" {html.count(len(changed), 'value')} changed since: {html.text(', '.join(changed))}."
        return f'<p class="ac-phase">{words}</p>'

    def _differing(self, chosen: str) -> list[str]:
        """Labels of the fields whose values are no longer those of the preset."""
        try:
            wanted = read_preset(chosen, self._adapter).settings
        except AceStepError:
            return []
        expected = self._displayed(wanted) | self._pace()
        changed = [key for key, value in expected.items() if self._desk.settings.get(key, value) != value]
        kinds: dict[str, type[Config]] = {name: form.config_type for name, form in self.forms.items()}
        return [str(fields(kinds[group])[name].title) for group, name in (key.split(".") for key in changed)]
