"""Running a job in several worker processes."""

import subprocess
import sys
import time

import pytest

from acestep.core import jobs
from acestep.core.errors import JobCancelled, TrainingError, WorkerCrashed
from acestep.core.events import Cancelled, Progressed
from acestep.core.job_folder import JobFolder
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
MAIN_PROCESS = f"""
import sys
from pathlib import Path
from acestep.core import jobs
from acestep.core.workers import WorkerJob, run_workers
from tests.core.fake_jobs import TABLE, Count
jobs.JOBS.update(TABLE)
worker_jobs = [WorkerJob("count", Count(n=100_000))] * 2
run_workers(worker_jobs, Path(sys.argv[1]), lambda number, event: None, command=[sys.executable, "-c", {CHILD!r}])
"""
LONG = 100_000


@pytest.fixture(autouse=True)
def _fake_jobs(monkeypatch):
    monkeypatch.setattr(jobs, "JOBS", {**jobs.JOBS, **TABLE})


@pytest.fixture
def run(tmp_path):
    def run(*jobs_and_counts, on_event=lambda number, event: None):
        worker_jobs = [WorkerJob(job, Count(n=n)) for job, n in jobs_and_counts]
        return run_workers(worker_jobs, tmp_path, on_event, command=[sys.executable, "-c", CHILD])

    return run


def last_event(folder, worker):
    return JobFolder(folder).worker(worker).events.read()[0][-1]


def test_results_are_in_order_and_progress_is_summed(run):
    events = []
    results = run(("count", 2), ("count", 3), on_event=MergedEvents(events.append, total=5))
    assert results == [{"counted": 2}, {"counted": 3}]
    assert [(event.done, event.total) for event in events] == [(done, 5) for done in range(1, 6)]


def test_stopping_the_main_job_stops_every_worker(run, tmp_path):
    def stop(number, event):
        JobFolder(tmp_path).request_stop()

    with pytest.raises(JobCancelled, match="stopped by the user"):
        run(("count", LONG), ("count", LONG), on_event=stop)
    assert all(isinstance(last_event(tmp_path, number), Cancelled) for number in (0, 1))


def test_an_unexpected_exit_of_a_worker_is_reported_and_stops_the_others(run, tmp_path):
    with pytest.raises(WorkerCrashed, match="process 2 of 2 exited unexpectedly, exit code 9") as crash:
        run(("count", LONG), ("exit", 0))
    assert str(JobFolder(tmp_path).worker(1).output_path) in crash.value.hint
    assert isinstance(last_event(tmp_path, 0), Cancelled)


def test_the_error_of_a_worker_is_raised_with_its_hint(run):
    with pytest.raises(TrainingError, match="the samples are too short") as error:
        run(("count", LONG), ("fail", 0))
    assert error.value.hint == "Use longer files."


def test_a_bug_in_a_worker_is_raised_as_worker_crashed(run):
    with pytest.raises(WorkerCrashed, match="KeyError"):
        run(("crash", 0), ("count", LONG))


def test_an_exception_of_the_event_handler_stops_the_workers(run, tmp_path):
    def enough(number, event):
        if isinstance(event, Progressed) and event.done > 3:
            raise JobCancelled("enough")

    with pytest.raises(JobCancelled, match="enough"):
        run(("count", LONG), ("count", LONG), on_event=enough)
    assert all(isinstance(last_event(tmp_path, number), Cancelled) for number in (0, 1))


def test_workers_stop_when_the_main_process_is_killed(tmp_path):
    main_process = subprocess.Popen(
        [sys.executable, "-c", MAIN_PROCESS, str(tmp_path)], stdin=subprocess.DEVNULL, cwd=PROJECT
    )
    logs = [JobFolder(tmp_path).worker(number).events for number in (0, 1)]
    end = time.monotonic() + 30
    while not all(log.read()[0] for log in logs):
        assert time.monotonic() < end
        time.sleep(0.05)
    main_process.kill()
    main_process.wait()
    while not all(isinstance(log.read()[0][-1], Cancelled) for log in logs):
        assert time.monotonic() < end
        time.sleep(0.05)
