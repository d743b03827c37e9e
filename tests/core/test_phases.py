"""Phases of a job: their progress and time left, in the log, in the terminal and on the page."""

from __future__ import annotations

import time

import pytest

from acestep.core import phases
from acestep.core.event_log import decode, encode
from acestep.core.events import EpochLogged, Event, PhaseStarted, Progressed, Saved, Started, StepLogged
from acestep.core.phases import PhaseProgress
from acestep.ui.progress import describe_phase
from acestep.ui.watch import JobView


def view(*events: Event) -> JobView:
    shown = JobView()
    for event in events:
        shown.add(event)
    return shown


def step(number: int, time_s: float) -> StepLogged:
    return StepLogged(step=number, epoch=3, loss=0.5, lr=1e-4, grad_norm=1.0, epochs=40, steps=1600, time_s=time_s)


def test_a_phase_reports_its_progress_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    emitted: list[Event] = []
    clock = iter([0.0, 0.5, 10.0, 10.2, 20.0])
    monkeypatch.setattr(phases.time, "monotonic", lambda: next(clock))
    progress = PhaseProgress(emitted.append, "Loading the model")
    for done in (1, 25, 26, 50):
        progress(done, 100)
    assert isinstance(emitted[0], PhaseStarted)
    found = [event for event in emitted if isinstance(event, Progressed)]
    assert [(event.done, event.total, event.phase, event.seconds_left) for event in found] == [
        (25, 100, "Loading the model", 30.0),
        (50, 100, "Loading the model", 20.0),
    ]
    assert str(found[0]) == "Loading the model: 25 %, about 30 s left"


def test_the_page_shows_the_phase_with_elapsed_time_and_time_left() -> None:
    began = time.time() - 10
    loading = PhaseStarted(phase="Loading turbo", time_s=began)
    progress = Progressed(done=1, total=4, phase="Loading turbo", seconds_left=30.0, time_s=began + 9)
    shown = view(loading, progress)
    assert describe_phase(shown) == "Loading turbo, 25 %, 10 s elapsed, about 30 s left"
    assert (shown.done, shown.total) == (0, 0)


def test_a_run_shows_its_epoch_and_step_again_after_a_phase() -> None:
    now = time.time()
    start, saving = Started(job="train", total=1600, unit="steps"), PhaseStarted(phase="Saving a checkpoint")
    assert str(step(120, now)) == "epoch 3 of 40 (step 120/1600)  loss 0.5000  lr 1.00e-04"
    assert describe_phase(view(start, step(120, now))) == "Epoch 3 of 40 (step 120/1600)"
    assert describe_phase(view(start, step(120, now), saving)) == "Saving a checkpoint"
    done = Saved(path="epoch_3", role="checkpoint")
    assert describe_phase(view(start, step(120, now), saving, done)) == "Epoch 3 of 40 (step 120/1600)"
    evaluating = PhaseStarted(phase="Evaluating")
    epoch = EpochLogged(epoch=3, epochs=40, step=120, seconds=1.0, loss=0.5)
    assert describe_phase(view(start, step(120, now), evaluating, epoch)) == "Epoch 3 of 40 (step 120/1600)"


def test_a_run_that_logs_few_steps_shows_the_step_of_the_latest_epoch() -> None:
    start = Started(job="train", total=1600, unit="steps")
    epoch = EpochLogged(epoch=4, epochs=40, step=160, seconds=1.0, loss=0.5)
    assert describe_phase(view(start, step(120, time.time()), epoch)) == "Epoch 4 of 40 (step 160/1600)"


def test_the_added_fields_are_optional_in_the_log() -> None:
    old = {"type": "StepLogged", "time_s": 1.0, "step": 4, "epoch": 1, "loss": 0.5, "lr": 0.1, "grad_norm": 1.0}
    read = decode(old)
    assert isinstance(read, StepLogged)
    assert read.position == "epoch 1 (step 4)"
    assert encode(read) == old
    assert decode(encode(step(120, 1.0))) == step(120, 1.0)
