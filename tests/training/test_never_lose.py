"""What is saved when, what is removed, and what never is."""

import threading
import time

import pytest
import torch

from acestep.core.events import LogMessage, Paused, Resumed, Saved, StepLogged
from acestep.training.gpu_monitor import GPUMonitor, GPUSnapshot
from acestep.training.memory.monitor import MemoryMonitor
from acestep.training.state import run_folder as run_folder_module
from acestep.training.state.run_folder import RunFolder
from tests.training.runs import make_job, of_kind, run, tensors_for


@pytest.fixture(scope="module")
def tensors(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint, [(24, 5), (17, 7)])


@pytest.fixture
def job(tensors, tiny_checkpoint, tmp_path):
    def make(**settings):
        return make_job(tensors, tiny_checkpoint, tmp_path / "run", **{"gradient_accumulation_steps": 1, **settings})

    return make


def names(job):
    return [path.name for path in RunFolder(job.out).saved()]


def test_checkpoints_come_by_the_clock_too_in_the_middle_of_an_epoch(job):
    _, events = run(job(max_epochs=1, save_every_n_minutes=1e-6))
    assert names(job()) == ["epoch_1_step_1", "epoch_1"]
    assert [event.role for event in of_kind(events, Saved)] == ["checkpoint", "checkpoint", "final"]
    run(job(max_epochs=2, save_every_n_minutes=60, resume="auto"))
    assert names(job()) == ["epoch_1_step_1", "epoch_1", "epoch_2"]


def test_only_the_last_checkpoints_are_kept_and_the_run_resumes_from_them(job):
    _, events = run(job(max_epochs=5, save_every_n_epochs=1, keep_last_n_checkpoints=2, auto_save_best_after=1))
    assert names(job()) == ["epoch_4", "epoch_5"]
    assert (job().out / "best" / "adapter").is_dir()
    assert [event.message for event in of_kind(events, LogMessage) if event.message.startswith("Removed")] == [
        f"Removed epoch_{epoch}; keeping the last 2 checkpoints" for epoch in (1, 2, 3)
    ]
    _, events = run(job(max_epochs=6, resume="auto"))
    assert [event.step for event in of_kind(events, StepLogged)] == [11, 12]


def test_renamed_or_modified_checkpoints_are_never_removed(job):
    run(job(max_epochs=4, save_every_n_epochs=1))
    checkpoints = RunFolder(job().out).checkpoints
    (checkpoints / "epoch_1").rename(checkpoints / "the good one")
    (checkpoints / "epoch_2" / "keep").touch()
    (checkpoints / "epoch_1_loss_0.5" / "adapter").mkdir(parents=True)
    run(job(max_epochs=5, save_every_n_epochs=1, keep_last_n_checkpoints=1, resume="auto"))
    kept = {path.name for path in checkpoints.iterdir() if path.is_dir()}
    assert kept == {"the good one", "epoch_2", "epoch_1_loss_0.5", "epoch_5"}


def test_resuming_from_an_earlier_checkpoint_removes_no_later_one(job):
    run(job(max_epochs=4, save_every_n_epochs=1))
    back = str(RunFolder(job().out).checkpoints / "epoch_1")
    run(job(max_epochs=2, keep_last_n_checkpoints=1, resume=back))
    assert names(job()) == ["epoch_2", "epoch_3", "epoch_4"]
    assert RunFolder(job().out).latest_checkpoint().name == "epoch_2"


def test_a_checkpoint_that_cannot_be_removed_is_reported_and_training_continues(job, monkeypatch):
    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(run_folder_module, "remove_folder", locked)
    result, events = run(job(max_epochs=2, save_every_n_epochs=1, keep_last_n_checkpoints=1))
    assert result["epochs"] == 2
    warnings = [event.message for event in of_kind(events, LogMessage) if event.warning]
    assert len(warnings) == 1
    assert "was not removed" in warnings[0]


def test_a_paused_run_waits_between_two_steps_and_resumes_exactly(job):
    pause = job().out / "pause"
    pause.parent.mkdir()
    pause.touch()
    timer = threading.Timer(0.5, pause.unlink)
    timer.start()
    began = time.monotonic()
    result, events = run(job(max_epochs=1))
    assert time.monotonic() - began > 0.5
    assert [type(event) for event in events if isinstance(event, Paused | Resumed)] == [Paused, Resumed]
    assert result["steps"] == 2


def test_low_gpu_memory_is_reported_between_steps_and_summarized_at_the_end():
    told = []
    monitor = GPUMonitor(92, 0.01, read=lambda: GPUSnapshot(time.time(), 9_000.0, 9_500.0, 512.0, 10_240.0))
    with MemoryMonitor(torch.device("cuda:0"), told.append, monitor=monitor) as watch:
        deadline = time.monotonic() + 10
        while not told and time.monotonic() < deadline:
            watch.tell()
            time.sleep(0.01)
        assert [(event.message, event.warning) for event in told] == [
            ("GPU memory is 95 % full, 0.5 GB are free", True)
        ]
    assert told[-1].message.startswith("GPU memory: peak 9.5 of 10.0 GB used")
    assert watch.summary["peak_used_mb"] == 9_728.0
    assert not any(thread.name == "GPU monitor" for thread in threading.enumerate())


def test_without_a_gpu_nothing_is_monitored():
    told = []
    with MemoryMonitor(torch.device("cpu"), told.append) as watch:
        watch.tell()
    assert (told, watch.summary) == ([], None)
