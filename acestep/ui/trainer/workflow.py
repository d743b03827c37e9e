"""Where the user stands on the way from songs to an adapter, and what comes next."""

from __future__ import annotations

from dataclasses import dataclass

from acestep.core.errors import AceStepError
from acestep.ui.html import count
from acestep.ui.trainer.app_state import Desk
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
class Step:
    """One stage of the way: done or not, in a few words, and what to do about it."""

    tab: str
    done: bool
    words: str
    todo: str


def steps(desk: Desk) -> list[Step]:
    """The stages, in order."""
    return [_service(desk), _dataset(desk), _preprocess(desk), _train(desk), _listen(desk)]


def next_step(desk: Desk) -> Step:
    """The first stage that is not done; then the adapter can be taken along."""
    onward = Step("export", True, "", "Take the adapter along to the program that makes your music.")
    return next((step for step in steps(desk) if not step.done), onward)


def version(desk: Desk) -> tuple[object, ...]:
    """Changes whenever the answer may have."""
    watches = desk.watches
    jobs = tuple(watch.look()[0] for watch in watches.values())
    service = desk.service
    return desk.settings.version, desk.songs.version, jobs, desk.tensors_version(), service.loading, service.loaded


def _service(desk: Desk) -> Step:
    todo = "Choose the model that you want to teach."
    if not desk.settings.text("service.checkpoint"):
        return Step("service", False, "no model", todo)
    try:
        return Step("service", True, desk.checkpoint().name, todo)
    except AceStepError:
        return Step("service", False, "model not found", todo)


def _dataset(desk: Desk) -> Step:
    about = desk.songs.overview()
    if not about.songs:
        return Step("dataset", False, "no songs", "Scan the folder with your songs.")
    if not about.labelled:
        return Step("dataset", False, f"{count(about.songs, 'song')}, no captions", "Describe your songs in words.")
    return Step("dataset", True, f"{about.labelled} of {count(about.songs, 'song')} labelled", "")


def _preprocess(desk: Desk) -> Step:
    todo = "Turn the songs into tensors."
    if desk.watches["preprocess"].look()[0] in ACTIVE:
        return Step("preprocess", False, "at work", "Wait until the songs are encoded.")
    try:
        return Step("preprocess", True, f"{count(len(desk.tensors().paths), 'song')} ready", todo)
    except AceStepError:
        return Step("preprocess", False, "no tensors", todo)


def _train(desk: Desk) -> Step:
    state, account = desk.watches["train"].look()
    if state in ACTIVE:
        return Step("train", False, "at work", "Wait for the training, or listen to its checkpoints.")
    if desk.adapters():
        return Step("train", True, "finished" if state == "done" else "an adapter is there", "")
    return Step("train", False, "not trained", "Start the training.")


def _listen(desk: Desk) -> Step:
    todo = "Listen to what the adapter makes of the model."
    done = desk.watches["generate"].look()[0] == "done"
    return Step("listen", done, "heard" if done else "not heard", todo)
