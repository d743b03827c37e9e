"""Profiles: all settings of the page and its dataset in a file; import and export of Side-Step presets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config, groups
from acestep.core.errors import CheckpointError, ConfigError
from acestep.core.paths import is_network_path
from acestep.models.checkpoint import find_checkpoint
from acestep.training.interop.profiles import read_profile, write_profile
from acestep.training.interop.sidestep import read_sidestep, write_sidestep
from acestep.training.settings import Remark, apply_fitting
from acestep.ui import html, layout
from acestep.ui.form import Form
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.trainer.train_settings import TrainSettings

# Fields of the page that belong to no config: the names of ace-lora-trainer and ours.
CONTROLS = {
    "custom_ckpt_dir": "service.folder",
    "split_input_dir": "split.in",
    "split_output_dir": "split.out",
    "split_duration": "split.seconds",
    "audio_directory": "dataset.folder",
    "load_dataset_path": "dataset.load",
    "dataset_name": "dataset.name",
    "custom_tag": "dataset.custom_tag",
    "tag_position": "dataset.tag_position",
    "all_instrumental": "dataset.all_instrumental",
    "genre_ratio": "dataset.genre_ratio",
    "save_path": "dataset.save",
    "estimate_batches": "estimate.batches",
    "estimate_granularity": "estimate.granularity",
    "estimate_top_k": "estimate.top_k",
    "export_path": "export.path",
    "merge_output_dir": "merge.out",
}
_PROFILE, _SIDESTEP = "profiles/my_profile.json", "profiles/my_sidestep.json"
_SHOWN = 12  # remarks


class ProfilesPanel:
    """Components above the tabs; ``wire`` is called when the forms exist."""

    def __init__(self) -> None:
        with layout.section("Profiles", "tr-profiles") as self._section:
            with layout.field_row():
                about = "All settings of this page and the dataset with its labels, without keys and passwords."
                self._profile = gr.Textbox(
                    label="Profile JSON", info=about, placeholder=_PROFILE, elem_id="tr-profile-path", scale=5
                )
                self._load = gr.Button("Load Profile", elem_id="tr-profile-load", scale=0)
                self._save = gr.Button("Save Profile", elem_id="tr-profile-save", scale=0)
            with layout.field_row():
                about = "A preset of Side-Step, or the training_config.json of one of its runs."
                self._sidestep = gr.Textbox(
                    label="Side-Step Config (.json)",
                    info=about,
                    placeholder=_SIDESTEP,
                    elem_id="tr-sidestep-path",
                    scale=5,
                )
                self._import = gr.Button("Import Side-Step", elem_id="tr-sidestep-import", scale=0)
                self._export = gr.Button("Export Side-Step", elem_id="tr-sidestep-export", scale=0)
            self._status = gr.HTML(elem_id="tr-profile-status")

    def wire(self, page: TrainerContext, train: TrainSettings, preprocess: Form[Any]) -> None:
        """Add the listeners for these forms."""
        files = _Files(page, train, preprocess)
        page.saved_fields.add("profile.path", self._profile)
        page.saved_fields.add("sidestep.path", self._sidestep)
        for button, act, path in (
            (self._load, files.load, self._profile),
            (self._save, files.save, self._profile),
            (self._import, files.import_sidestep, self._sidestep),
            (self._export, files.export_sidestep, self._sidestep),
        ):
            page.on(button.click, act, [path], [self._status])
        with self._section:
            page.changes.place(page, ("profile",), "tr-profile")


class _Files:
    """Loads and saves the settings of the page. Each method returns a message as HTML."""

    def __init__(self, page: TrainerContext, train: TrainSettings, preprocess: Form[Any]) -> None:
        self._app, self._changes = page.app, page.changes
        self._train, self._preprocess = train, preprocess

    def save(self, text: str) -> str:
        """Only inside the workspace."""
        path = self._app.workspace.inside(text if text.strip() else _PROFILE, "Profile JSON")
        saved_fields = {name: self._app.settings.get(key) for name, key in CONTROLS.items()}
        controls = {name: value for name, value in saved_fields.items() if value is not None}
        songs, folder = self._app.dataset.dataset, self._app.settings.text("dataset.folder")
        write_profile(path, self._configs(), controls=controls, dataset=songs, folder=folder)
        return html.notice(f"Saved in {path}", tone="good")

    def load(self, text: str) -> str:
        profile = read_profile(self._app.workspace.file(text, "Profile JSON"))
        configs = self._configs()
        remarks = [*profile.remarks, *profile.apply(configs)]
        controls = {CONTROLS[name]: value for name, value in profile.controls.items() if name in CONTROLS}
        if profile.dataset is not None:
            self._app.dataset.replace(profile.dataset)
        remarks += self._select_model(str(profile.settings.get("job.checkpoint") or ""))
        self._show("Loaded the profile", configs, profile.settings, controls)
        songs = f", {html.count(len(profile.dataset.samples), 'song')}" if profile.dataset else ""
        return _message(f"Loaded: {html.count(len(profile.settings) + len(controls), 'setting')}{songs}", remarks)

    def import_sidestep(self, text: str) -> str:
        found = read_sidestep(self._app.workspace.file(text, "Side-Step Config"))
        configs = self._configs()
        remarks = [*found.remarks, *apply_fitting(found.settings, configs)]
        self._show(f"Imported {found.name}", configs, found.settings, {})
        return _message(
            f"Imported {found.name}: {html.count(len(found.settings), 'setting')}", remarks, found.description
        )

    def export_sidestep(self, text: str) -> str:
        """Only inside the workspace."""
        path = self._app.workspace.inside(text if text.strip() else _SIDESTEP, "Side-Step Config")
        known = {name: config for name, config in self._configs().items() if name in ("training", *ADAPTERS.names)}
        written, remarks = write_sidestep(path, known)
        return _message(f"Saved in {written}", remarks)

    def _configs(self) -> dict[str, Config]:
        """The settings of the page by group. Raises ConfigError for an invalid value."""
        job = self._train.current()
        elsewhere = {"source": "", "checkpoint": job.checkpoint}
        encoding: Config = self._preprocess.read(self._preprocess.saved, **elsewhere)
        return {"job": job, "preprocess": encoding, **{name: getattr(job, name) for name in groups(type(job))}}

    def _show(self, title: str, configs: dict[str, Config], named: Iterable[str], controls: Mapping[str, Any]) -> None:
        """Show ``controls`` and the settings that a file names in the fields; all others stay as they are."""
        job: Any = configs["job"]
        values = self._train.values(job)
        values |= {"train.out": str(job.out), **self._preprocess.to_saved(configs["preprocess"])}
        keys = {"train.preset", *map(_key_of, named)}
        values = {key: value for key, value in values.items() if key in keys} | dict(controls)
        self._changes.apply("profile", title, values, entered=values, final=True)

    def _select_model(self, name: str) -> list[Remark]:
        if not name:
            return []
        if is_network_path(name):
            return [Remark("checkpoint", name, "network paths are not opened")]
        try:
            found = find_checkpoint(name, self._app.checkpoints_folder)
        except (CheckpointError, ConfigError):
            return [Remark("checkpoint", name, "this model is not on this computer")]
        self._app.settings.put({"service.checkpoint": str(found.folder)})
        return []


def _key_of(setting: str) -> str:
    """The key of the field of a qualified setting. Those of the job itself are not in a form of their own."""
    fields = {"job.tensor_dir": "train.tensors", "job.out": "train.out"}
    return fields.get(setting, setting.replace("job.", "run.", 1) if setting.startswith("job.") else setting)


def _message(title: str, remarks: Iterable[Remark], description: str = "") -> str:
    lines = [str(remark) for remark in remarks]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return html.notice(title, [description, *lines[:_SHOWN], *more], "warn" if lines else "good")
