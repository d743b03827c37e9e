"""The steps from songs to an adapter: what is done, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass

from acestep.core.errors import AceStepError
from acestep.ui.html import count
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.captions import Choice, decision
from acestep.ui.watch import ACTIVE

_CHOICES: dict[Choice, str] = {"describe": "described here", "captioner": "described elsewhere", "tag": "tag alone"}

TABS = {
    "service": "1. Service",
    "dataset": "2. Dataset",
    "preprocess": "3. Preprocess",
    "train": "4. Train",
    "listen": "5. Listen",
    "export": "6. Export & Merge",
    "runs": "Runs",
    "system": "System",
}


@dataclass(frozen=True, slots=True)
class WorkflowStep:
    """One step: its tab, whether it is done, a short status, and the action that completes it.

    ``decide``: the user has to decide something.
    """

    tab: str
    done: bool
    status: str
    action: str
    decide: bool = False


def steps(app: AppState) -> list[WorkflowStep]:
    """The steps, in order."""
    return [_service(app), _dataset(app), _preprocess(app), _train(app), _listen(app)]


def next_step(app: AppState) -> WorkflowStep:
    """The first step that is not done, or the export."""
    export = WorkflowStep("export", True, "", "Export the adapter for your music program.")
    return next((step for step in steps(app) if not step.done), export)


def version(app: AppState) -> tuple[object, ...]:
    """Changes whenever the steps may have changed."""
    watches = app.watches
    jobs = tuple(watch.read()[0] for watch in watches.values())
    service = app.service
    return app.settings.version, app.dataset.version, jobs, app.tensors_version(), service.loading, service.loaded


def _service(app: AppState) -> WorkflowStep:
    action = "Select the base model to train."
    if not app.settings.text("service.checkpoint"):
        return WorkflowStep("service", False, "no model", action)
    try:
        return WorkflowStep("service", True, app.checkpoint().name, action)
    except AceStepError:
        return WorkflowStep("service", False, "model not found", action)


def _dataset(app: AppState) -> WorkflowStep:
    statistics = app.dataset.statistics()
    if not statistics.songs:
        return WorkflowStep("dataset", False, "no songs", "Scan the folder with your songs.")
    labeled = f"{statistics.labeled} of {count(statistics.songs, 'song')} labeled"
    if statistics.labeled == statistics.songs:
        return WorkflowStep("dataset", True, labeled, "")
    choice = decision(app)
    if choice is None:
        action = "Decide how to train the songs without a caption."
        return WorkflowStep("dataset", False, f"{labeled}, decision needed", action, decide=True)
    return WorkflowStep("dataset", True, f"{labeled}, {_CHOICES[choice]}", "")


def _preprocess(app: AppState) -> WorkflowStep:
    action = "Encode the songs as tensors."
    if app.watches["preprocess"].read()[0] in ACTIVE:
        return WorkflowStep("preprocess", False, "in progress", "Wait until the songs are encoded.")
    try:
        return WorkflowStep("preprocess", True, f"{count(len(app.tensors().paths), 'song')} ready", action)
    except AceStepError:
        return WorkflowStep("preprocess", False, "no tensors", action)


def _train(app: AppState) -> WorkflowStep:
    state, view = app.watches["train"].read()
    if state in ACTIVE:
        return WorkflowStep("train", False, "in progress", "Wait for the run to finish, or listen to its checkpoints.")
    if app.adapters():
        return WorkflowStep("train", True, "finished" if state == "done" else "adapter available", "")
    return WorkflowStep("train", False, "not trained", "Start the training.")


def _listen(app: AppState) -> WorkflowStep:
    action = "Listen to the adapter."
    done = app.watches["generate"].read()[0] == "done"
    return WorkflowStep("listen", done, "done" if done else "not done", action)
