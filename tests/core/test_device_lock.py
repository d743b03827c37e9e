"""Two jobs and one graphics card."""

from __future__ import annotations

import json
import tempfile
import threading
import time

import pytest

from acestep.core.device_lock import lock_device, share_device
from acestep.core.errors import JobCancelled
from acestep.core.event_log import EventLog
from acestep.core.events import Waiting
from acestep.core.jobs import Context


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Locks of this test alone."""
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


def told(context):
    return EventLog(context.folder / "events.jsonl").read()[0]


class WaitingJob:
    """A job that wants the card, in a thread of its own."""

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

    def until_told(self, count=1):
        ends = time.monotonic() + 10
        while len(told(self.context)) < count:
            assert time.monotonic() < ends
            time.sleep(0.01)


def test_a_job_waits_until_the_other_one_is_done_and_says_whom_it_waits_for(contexts):
    trainer, captioner = contexts
    with lock_device("cuda", "training", trainer):
        waiting = WaitingJob(captioner, "cuda:0")
        waiting.until_told()
        assert not waiting.got.wait(0.7)
    assert waiting.got.wait(10)
    first, last = told(captioner)
    assert isinstance(first, Waiting)
    assert (first.device, first.holder, first.holder_folder) == ("cuda:0", "training", str(trainer.folder))
    assert first.share_file == str(captioner.folder / "share")
    assert f"training in {trainer.folder}" in str(first)
    assert json.dumps(first.share_file) in str(first)
    assert str(last) == "cuda:0 is free"
    assert told(trainer) == []


def test_the_user_may_let_it_go_on_beside_the_other_one(contexts):
    trainer, captioner = contexts
    share_device(captioner.folder)  # a wish of an earlier time does not count
    with lock_device("cuda", "training", trainer):
        waiting = WaitingJob(captioner)
        waiting.until_told()
        assert not waiting.got.wait(0.7)
        share_device(captioner.folder)
        assert waiting.got.wait(10)
        waiting.thread.join(10)
        third = WaitingJob(captioner)  # the first job has the card as before
        assert not third.got.wait(0.3)
        share_device(captioner.folder)
        assert third.got.wait(10)
    assert "may not be enough" in str(told(captioner)[1])


def test_a_job_that_waits_can_be_stopped(contexts):
    trainer, captioner = contexts
    with lock_device("cuda", "training", trainer):
        waiting = WaitingJob(captioner)
        waiting.until_told()
        (captioner.folder / "cancel").touch()
        waiting.thread.join(10)
    assert isinstance(waiting.error, JobCancelled)
    assert not waiting.got.is_set()


def test_a_processor_and_another_card_are_free(contexts, place, monkeypatch):
    trainer, captioner = contexts
    with lock_device("cpu", "training", trainer), lock_device("cpu", "captioning", captioner):
        assert list(place.iterdir()) == []
    with lock_device("cuda:0", "training", trainer), lock_device("cuda:1", "captioning", captioner):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,2")
        assert WaitingJob(captioner, "cuda:1").got.wait(10)
    assert told(captioner) == []


def test_the_shares_of_a_job_heed_what_the_user_wants_of_the_whole(contexts, tmp_path):
    trainer, parent = contexts
    (tmp_path / "share0").mkdir()
    share = Context(tmp_path / "share0", parent.folder)
    with lock_device("cuda", "training", trainer):
        waiting = WaitingJob(share)
        waiting.until_told()
        assert str(parent.folder / "share") in str(told(share)[0])
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
    assert told(contexts[0]) == []


def test_a_folder_that_takes_no_locks_stops_no_job(contexts, place):
    place.rmdir()
    place.write_text("a file where a folder should be")
    with lock_device("cuda", "training", contexts[0]):
        assert "do not see that cuda is taken" in str(told(contexts[0])[0])


def test_an_error_in_the_job_gives_the_card_free(contexts):
    trainer, captioner = contexts
    with pytest.raises(MemoryError), lock_device("cuda", "training", trainer):
        raise MemoryError
    with lock_device("cuda", "captioning", captioner):
        assert told(captioner) == []
