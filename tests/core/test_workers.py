"""A job shared by several processes: one speaks for all, and none outlives the others."""

import subprocess
import sys
import time

import pytest

from acestep.core import jobs
from acestep.core.errors import JobCancelled, TrainingError, WorkerCrashed
from acestep.core.event_log import EventLog
from acestep.core.events import Cancelled, Progressed
from acestep.core.job_folder import WORKERS as FOLDER
from acestep.core.paths import PROJECT
from acestep.core.workers import MergedEvents, WorkerJob, run_workers
from tests.core.fake_jobs import TABLE, Count

CHILD = """
import sys
from pathlib import Path
from acestep.core import jobs
from tests.core.fake_jobs import TABLE
jobs.JOBS.update(TABLE)
sys.exit(jobs.exit_code(jobs.run_job(Path(sys.argv[1]))))
"""
STARTER = f"""
import sys
from pathlib import Path
from acestep.core import jobs
from acestep.core.workers import WorkerJob, run_workers
from tests.core.fake_jobs import TABLE, Count
jobs.JOBS.update(TABLE)
shares = [WorkerJob("count", Count(n=100_000))] * 2
run_workers(shares, Path(sys.argv[1]), lambda number, event: None, command=[sys.executable, "-c", {CHILD!r}])
"""
LONG = 100_000


@pytest.fixture(autouse=True)
def _fake_jobs(monkeypatch):
    monkeypatch.setattr(jobs, "JOBS", {**jobs.JOBS, **TABLE})


@pytest.fixture
def share(tmp_path):
    def run(*work, on_event=lambda number, event: None):
        shares = [WorkerJob(job, Count(n=n)) for job, n in work]
        return run_workers(shares, tmp_path, on_event, command=[sys.executable, "-c", CHILD])

    return run


def last_of(folder):
    return EventLog(folder / "events.jsonl").read()[0][-1]


def test_results_come_in_order_and_counts_are_added_up(share):
    heard = []
    results = share(("count", 2), ("count", 3), on_event=MergedEvents(heard.append, total=5))
    assert results == [{"counted": 2}, {"counted": 3}]
    assert [(event.done, event.total) for event in heard] == [(done, 5) for done in range(1, 6)]


def test_a_stop_of_the_whole_job_stops_each_share(share, tmp_path):
    def stop(number, event):
        (tmp_path / "cancel").touch()

    with pytest.raises(JobCancelled, match="stopped by the user"):
        share(("count", LONG), ("count", LONG), on_event=stop)
    assert all(isinstance(last_of(tmp_path / FOLDER / name), Cancelled) for name in "01")


def test_a_process_that_dies_is_told_and_the_other_does_not_wait_for_it(share, tmp_path):
    with pytest.raises(WorkerCrashed, match="process 2 of 2 ended without a word, exit code 9") as crash:
        share(("count", LONG), ("die", 0))
    assert str(tmp_path / FOLDER / "1" / "output.txt") in crash.value.hint
    assert isinstance(last_of(tmp_path / FOLDER / "0"), Cancelled)


def test_what_one_refuses_is_raised_with_its_hint(share):
    with pytest.raises(TrainingError, match="the songs are too short") as refused:
        share(("count", LONG), ("refuse", 0))
    assert refused.value.hint == "Bring longer ones."


def test_a_fault_of_ours_is_told_as_one(share):
    with pytest.raises(WorkerCrashed, match="KeyError"):
        share(("stumble", 0), ("count", LONG))


def test_whoever_listens_can_end_it(share, tmp_path):
    def enough(number, event):
        if isinstance(event, Progressed) and event.done > 3:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled, match="enough"):
        share(("count", LONG), ("count", LONG), on_event=enough)
    assert all(isinstance(last_of(tmp_path / FOLDER / name), Cancelled) for name in "01")


def test_nobody_stays_behind_when_the_starter_is_killed(tmp_path):
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], cwd=PROJECT)
    logs = [EventLog(tmp_path / FOLDER / name / "events.jsonl") for name in "01"]
    end = time.monotonic() + 30
    while not all(log.read()[0] for log in logs):
        assert time.monotonic() < end
        time.sleep(0.05)
    starter.kill()
    starter.wait()
    while not all(isinstance(log.read()[0][-1], Cancelled) for log in logs):
        assert time.monotonic() < end
        time.sleep(0.05)
