"""The training runs on disk: their settings, their differences, and deletion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acestep.core import renames
from acestep.core.config import fields, groups
from acestep.core.errors import JobBusy, JobError, StorageError
from acestep.core.files import storage_errors
from acestep.core.job_folder import NAMES, JobFolder
from acestep.core.runs import RunSummary, list_runs, read_run
from acestep.core.untrusted import is_folder
from acestep.training.configs import TrainJob
from acestep.ui.trainer.app_state import AppState
from acestep.ui.watch import ACTIVE, JobView

# What training writes at the top level of a run folder.
_RUN_FILES = {*NAMES, "checkpoints", "best", "final", "logs", "samples", "training.json"}

_VALUE_LABELS = {"None": "automatic", "True": "yes", "False": "no", "{}": "none"}


def trainings(app: AppState) -> list[RunSummary]:
    """The training runs, the newest first."""
    return [run for run in list_runs(app.runs_folder) if run.job == "train"]


def view_of(folder: Path) -> JobView:
    """The state of a run from its events."""
    view = JobView()
    for event in JobFolder(folder).events.read()[0]:
        view.add(event)
    return view


def flat_settings(run: RunSummary) -> dict[str, Any]:
    """The settings of a run by label, with those of the trained kind of adapter."""
    config = run.config
    training = config.get("training", {})
    kind = training.get("adapter_type", "lora")
    found: dict[str, Any] = {"Model": Path(str(config.get("checkpoint", ""))).name, "Tensors": config.get("tensor_dir")}
    for owner, values in (("training", training), (kind, config.get(kind, {}))):
        found |= {_label(owner, name): value for name, value in values.items()}
    return {name: _VALUE_LABELS.get(str(value), _brief(value)) for name, value in found.items()}


def _brief(value: Any) -> Any:
    """Values per module as their number and range."""
    if not isinstance(value, dict) or not value:
        return value
    return f"{len(value)} modules, {min(value.values())} to {max(value.values())}"


def _label(owner: str, name: str) -> str:
    """The label of a setting; its name if only a newer version knows it."""
    kind = groups(TrainJob).get(owner)
    field = fields(kind).get(name) if kind else None
    label = str(field.title) if field else name
    return label if owner == "training" else f"{owner}: {label}"


def differences(runs: Sequence[RunSummary]) -> list[tuple[str, list[Any]]]:
    """The settings that differ, with the value of each run."""
    settings = [flat_settings(run) for run in runs]
    names = list(dict.fromkeys(name for each in settings for name in each))
    rows = [(name, [each.get(name) for each in settings]) for name in names]
    return [(name, values) for name, values in rows if any(value != values[0] for value in values)]


def delete_run(app: AppState, name: str) -> None:
    """Delete a run permanently.

    Raises:
        JobError: there is no such run, or it contains other files.
        JobBusy: it is running.
        StorageError: it is outside the workspace.
    """
    if name in ("", "..") or name != Path(name).name or not is_folder(app.runs_folder / name):
        raise JobError(f"there is no run {name!r} in {app.runs_folder}", hint="Enter the name of a run in the list.")
    folder = app.runs_folder / name
    if folder.is_symlink() or app.workspace.inside(str(folder), "Run") != folder.resolve():
        raise StorageError(f"{folder} is a link", hint="Delete it yourself.")
    if read_run(folder).job != "train":
        raise JobError(f"{folder} is not a training run")
    watch = app.watches["train"]
    if (watch.folder == folder and watch.read()[0] in ACTIVE) or read_run(folder).state == "running":
        raise JobBusy(f"{name} is running", hint="Stop it first.")
    others = sorted(entry.name for entry in folder.iterdir() if entry.name not in _RUN_FILES)
    if others:
        raise JobError(f"{folder} holds {', '.join(others[:3])}, which training did not write", hint="Move it first.")
    with storage_errors(folder):
        renames.remove_folder(folder)
    if watch.folder == folder:
        watch.follow(None)
