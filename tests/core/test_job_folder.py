"""JobFolder is the only reader and writer of the files of a job."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import acestep
from acestep.core.errors import JobBusy, JobError
from acestep.core.events import Cancelled, Event, Failed, Finished, Started
from acestep.core.job_folder import NAMES, JobFolder, job_folders


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path)


def test_a_job_is_written_and_read(job: JobFolder) -> None:
    assert not job.exists
    with pytest.raises(JobError, match="does not exist"):
        job.read_job()
    job.write_job("train", {"out": "run"})
    assert job.exists
    assert job.read_job() == ("train", {"out": "run"})
    assert sorted(path.name for path in job.path.iterdir()) == ["job.json"]


def test_requests_are_empty_files(job: JobFolder) -> None:
    job.request_stop()
    job.request_pause()
    job.request_sharing()
    assert sorted(path.name for path in job.path.iterdir()) == ["cancel", "pause", "share"]
    assert job.stop_requested
    assert job.pause_requested
    assert job.sharing_requested
    job.request_resume()
    assert not job.pause_requested
    job.clear_requests()
    job.clear_sharing()
    assert list(job.path.iterdir()) == []


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (Finished(), "done"),
        (Cancelled(), "stopped"),
        (Failed(error="KeyError", message="x"), "failed"),
        (Started(job="train", total=1, unit="steps"), "interrupted"),
    ],
)
def test_the_state_of_a_job_that_ended_follows_from_its_last_event(job: JobFolder, last: Event, state: str) -> None:
    job.events.emit(last)
    assert job.state == state


def test_the_state_of_a_running_job_follows_the_requests(job: JobFolder) -> None:
    job.events.emit(Started(job="train", total=1, unit="steps"))
    with job.lock():
        assert job.state == "running"
        job.request_pause()
        assert job.state == "paused"
        job.request_stop()
        assert job.state == "stopping"
        with pytest.raises(JobBusy), JobFolder(job.path).lock():
            pass
    assert job.state == "interrupted"


def test_folders_of_workers_are_not_listed_as_jobs(job: JobFolder) -> None:
    job.write_job("train", {})
    job.worker(0).write_job("train", {})
    assert job_folders(job.path) == [job.path]


def test_no_other_module_spells_out_the_names_of_the_files() -> None:
    quoted = re.compile("|".join(f"(?<!requested\\()[\"']{re.escape(name)}[\"']" for name in NAMES - {"workers"}))
    root = Path(acestep.__file__).parent
    found = [path.name for path in root.rglob("*.py") if quoted.search(path.read_text(encoding="utf-8"))]
    assert found == ["job_folder.py"]
