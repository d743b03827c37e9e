"""Two jobs and one GPU."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from pathlib import Path

import pytest

from acestep.core.device_lock import lock_device, share_device
from acestep.core.errors import JobCancelled
from acestep.core.events import Waiting
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import Context


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A separate lock folder for each test."""
    (tmp_path / "locks").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "locks"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "locks"


@pytest.fixture
def contexts(tmp_path):
    folders = [tmp_path / name for name in ("trainer", "captioner")]
    for folder in folders:
        folder.mkdir()
    return [Context(folder) for folder in folders]


def events_of(context):
    return JobFolder(context.folder).events.read()[0]


class WaitingJob:
    """A job that requests the device, in a separate thread."""

    def __init__(self, context, device="cuda"):
        self.context, self.device, self.got, self.error = context, device, threading.Event(), None
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self):
        try:
            with lock_device(self.device, "captioning", self.context):
                self.got.set()
        except JobCancelled as stop:
            self.error = stop

    def wait_for_events(self, count=1):
        ends = time.monotonic() + 10
        while len(events_of(self.context)) < count:
            assert time.monotonic() < ends
            time.sleep(0.01)


def test_a_job_waits_for_the_other_one_and_reports_which_one_it_is(contexts):
    trainer, captioner = contexts
    with lock_device("cuda", "training", trainer):
        waiting = WaitingJob(captioner, "cuda:0")
        waiting.wait_for_events()
        assert not waiting.got.wait(0.7)
    assert waiting.got.wait(10)
    first, last = events_of(captioner)
    assert isinstance(first, Waiting)
    assert (first.device, first.holder, first.holder_folder) == ("cuda:0", "training", str(trainer.folder))
    assert first.share_file == str(JobFolder(captioner.folder).share_path)
    assert f"training in {trainer.folder}" in str(first)
    assert json.dumps(first.share_file) in str(first)
    assert str(last) == "cuda:0 is free"
    assert events_of(trainer) == []


def test_the_user_can_run_two_jobs_on_one_device(contexts):
    trainer, captioner = contexts
    share_device(captioner.folder)  # a request from an earlier run is ignored
    with lock_device("cuda", "training", trainer):
        waiting = WaitingJob(captioner)
        waiting.wait_for_events()
        assert not waiting.got.wait(0.7)
        share_device(captioner.folder)
        assert waiting.got.wait(10)
        waiting.thread.join(10)
        third = WaitingJob(captioner)  # the first job still holds the lock
        assert not third.got.wait(0.3)
        share_device(captioner.folder)
        assert third.got.wait(10)
    assert "may not be enough" in str(events_of(captioner)[1])


def test_a_waiting_job_can_be_stopped(contexts):
    trainer, captioner = contexts
    with lock_device("cuda", "training", trainer):
        waiting = WaitingJob(captioner)
        waiting.wait_for_events()
        JobFolder(captioner.folder).request_stop()
        waiting.thread.join(10)
    assert isinstance(waiting.error, JobCancelled)
    assert not waiting.got.is_set()


def test_the_cpu_and_other_gpus_are_not_locked(contexts, place, monkeypatch):
    trainer, captioner = contexts
    with lock_device("cpu", "training", trainer), lock_device("cpu", "captioning", captioner):
        assert list(place.iterdir()) == []
    with lock_device("cuda:0", "training", trainer), lock_device("cuda:1", "captioning", captioner):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2")
        assert WaitingJob(captioner, "cuda:1").got.wait(10)
    assert events_of(captioner) == []


def test_workers_follow_requests_to_the_main_job(contexts, tmp_path):
    trainer, parent = contexts
    (tmp_path / "worker").mkdir()
    worker = Context(tmp_path / "worker", parent.folder)
    with lock_device("cuda", "training", trainer):
        waiting = WaitingJob(worker)
        waiting.wait_for_events()
        assert str(JobFolder(parent.folder).share_path) in str(events_of(worker)[0])
        share_device(parent.folder)
        assert waiting.got.wait(10)


def test_processes_of_one_job_do_not_wait_for_each_other(contexts):
    with lock_device("cuda", "training", contexts[0]):
        again = WaitingJob(Context(contexts[0].folder))
        assert again.got.wait(10)
        again.thread.join(10)
        waiting = WaitingJob(contexts[1])
        assert not waiting.got.wait(0.3)
    assert waiting.got.wait(10)
    assert events_of(contexts[0]) == []


def test_a_job_runs_if_the_device_cannot_be_locked(contexts, place):
    place.rmdir()
    place.write_text("a file where a folder should be")
    with lock_device("cuda", "training", contexts[0]):
        assert "cuda could not be locked" in str(events_of(contexts[0])[0])


def test_an_error_in_the_job_releases_the_lock(contexts):
    trainer, captioner = contexts
    with pytest.raises(MemoryError), lock_device("cuda", "training", trainer):
        raise MemoryError
    with lock_device("cuda", "captioning", captioner):
        assert events_of(captioner) == []


@pytest.mark.parametrize("problem", [KeyError("uid not found"), OSError("no user"), ImportError("no module pwd")])
def test_a_device_is_locked_where_the_system_knows_no_user(contexts, monkeypatch, problem):
    def unknown():
        raise problem

    monkeypatch.setattr("getpass.getuser", unknown)
    with lock_device("cuda", "training", contexts[0]):
        assert any("user-cuda" in path.name for path in Path(tempfile.gettempdir()).iterdir())
