"""Where the user stands on the way from songs to an adapter, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass

from acestep.core.errors import AceStepError
from acestep.ui.html import count
from acestep.ui.trainer.app_state import AppState
from acestep.ui.watch import ACTIVE

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
    """One stage of the way: done or not, in a few words, and what to do about it."""

    tab: str
    done: bool
    words: str
    todo: str


def steps(app: AppState) -> list[WorkflowStep]:
    """The stages, in order."""
    return [_service(app), _dataset(app), _preprocess(app), _train(app), _listen(app)]


def next_step(app: AppState) -> WorkflowStep:
    """The first stage that is not done; then the adapter can be taken along."""
    onward = WorkflowStep("export", True, "", "Take the adapter along to the program that makes your music.")
    return next((step for step in steps(app) if not step.done), onward)


def version(app: AppState) -> tuple[object, ...]:
    """Changes whenever the answer may have."""
    watches = app.watches
    jobs = tuple(watch.look()[0] for watch in watches.values())
    service = app.service
    return app.settings.version, app.songs.version, jobs, app.tensors_version(), service.loading, service.loaded


def _service(app: AppState) -> WorkflowStep:
    todo = "Choose the model that you want to teach."
    if not app.settings.text("service.checkpoint"):
        return WorkflowStep("service", False, "no model", todo)
    try:
        return WorkflowStep("service", True, app.checkpoint().name, todo)
    except AceStepError:
        return WorkflowStep("service", False, "model not found", todo)


def _dataset(app: AppState) -> WorkflowStep:
    about = app.songs.overview()
    if not about.songs:
        return WorkflowStep("dataset", False, "no songs", "Scan the folder with your songs.")
    if not about.labelled:
        return WorkflowStep(
            "dataset", False, f"{count(about.songs, 'song')}, no captions", "Describe your songs in words."
        )
    return WorkflowStep("dataset", True, f"{about.labelled} of {count(about.songs, 'song')} labelled", "")


def _preprocess(app: AppState) -> WorkflowStep:
    todo = "Turn the songs into tensors."
    if app.watches["preprocess"].look()[0] in ACTIVE:
        return WorkflowStep("preprocess", False, "at work", "Wait until the songs are encoded.")
    try:
        return WorkflowStep("preprocess", True, f"{count(len(app.tensors().paths), 'song')} ready", todo)
    except AceStepError:
        return WorkflowStep("preprocess", False, "no tensors", todo)


def _train(app: AppState) -> WorkflowStep:
    state, account = app.watches["train"].look()
    if state in ACTIVE:
        return WorkflowStep("train", False, "at work", "Wait for the training, or listen to its checkpoints.")
    if app.adapters():
        return WorkflowStep("train", True, "finished" if state == "done" else "an adapter is there", "")
    return WorkflowStep("train", False, "not trained", "Start the training.")


def _listen(app: AppState) -> WorkflowStep:
    todo = "Listen to what the adapter makes of the model."
    done = app.watches["generate"].look()[0] == "done"
    return WorkflowStep("listen", done, "heard" if done else "not heard", todo)
