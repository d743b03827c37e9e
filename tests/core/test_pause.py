"""Pausing and resuming a job."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from acestep.core import jobs
from acestep.core.events import Cancelled, Finished, Progressed
from acestep.core.job_runner import JobRunner
from tests.core.fake_jobs import TABLE, Count


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobRunner:
    monkeypatch.setattr(jobs, "JOBS", {**jobs.JOBS, **TABLE})
    runner = JobRunner()
    runner.start("count", Count(n=20), tmp_path / "run")
    runner.pause()
    for _ in range(500):
        if "paused" in map(str, runner.poll()[0]):
            return runner
        time.sleep(0.01)
    raise TimeoutError


def num_progress_events(runner: JobRunner) -> int:
    return sum(isinstance(event, Progressed) for event in runner.poll()[0])


def test_a_paused_job_waits_and_completes_after_it_is_resumed(runner: JobRunner) -> None:
    before = num_progress_events(runner)
    time.sleep(0.3)
    assert num_progress_events(runner) == before < 20
    runner.resume()
    assert runner.join(20)
    assert isinstance(runner.poll()[0][-1], Finished)
    assert num_progress_events(runner) == 20


def test_a_stop_ends_a_pause(runner: JobRunner) -> None:
    threading.Timer(0.1, runner.cancel).start()
    assert runner.join(20)
    assert isinstance(runner.poll()[0][-1], Cancelled)


def test_a_new_start_clears_the_pause(runner: JobRunner, tmp_path: Path) -> None:
    runner.cancel()
    runner.join(20)
    runner.start("count", Count(n=1), tmp_path / "run")
    assert runner.join(20)
    assert isinstance(runner.poll()[0][-1], Finished)
