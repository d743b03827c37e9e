import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from acestep.core import jobs
from acestep.core.errors import JobBusy, JobError
from acestep.core.event_log import EventLog
from acestep.core.events import FINAL_EVENTS, Cancelled, Failed, Finished, Progressed, Started, UnknownEvent
from acestep.core.job_folder import JobFolder
from acestep.core.job_runner import JobRunner
from acestep.core.jobs import exit_code, run_job, write_job
from acestep.core.runs import list_runs
from acestep.ui.watch import JobView, Watch
from tests.core.fake_jobs import TABLE, Count

CHILD = """
import sys
from pathlib import Path
from acestep.core import jobs
from tests.core.fake_jobs import TABLE
jobs.JOBS.update(TABLE)
sys.exit(jobs.exit_code(jobs.run_job(Path(sys.argv[1]))))
"""


@pytest.fixture(autouse=True)
def _fake_jobs(monkeypatch):
    monkeypatch.setattr(jobs, "JOBS", {**jobs.JOBS, **TABLE})


@pytest.fixture(params=[False, True], ids=["thread", "process"])
def start(request):
    runner = JobRunner([sys.executable, "-c", CHILD])

    def begin(name, folder, n=3):
        runner.start(name, Count(n=n), folder, own_process=request.param)
        return runner

    yield begin
    runner.cancel()
    runner.join(20)


def events_of(runner, seconds=20):
    events, offset, end = [], 0, time.monotonic() + seconds
    while time.monotonic() < end:
        new, offset = runner.poll(offset)
        events += new
        if events and isinstance(events[-1], FINAL_EVENTS):
            return events
        time.sleep(0.01)
    raise TimeoutError(events[-3:])


def test_the_last_event_of_a_job_contains_its_result(start, tmp_path):
    events = events_of(start("count", tmp_path / "run"))
    assert [e.done for e in events if isinstance(e, Progressed)] == [1, 2, 3]
    assert events[-1].result == {"counted": 3}
    assert exit_code(events[-1]) == 0


def test_only_one_job_at_a_time_and_it_can_be_stopped(start, tmp_path):
    runner = start("count", tmp_path / "run", n=10_000)
    with pytest.raises(JobBusy):
        runner.start("count", Count(n=1), tmp_path / "other")
    runner.cancel()
    last = events_of(runner)[-1]
    assert isinstance(last, Cancelled)
    assert exit_code(last) == 130


def test_an_error_of_the_job_is_reported_with_its_hint(start, tmp_path):
    last = events_of(start("fail", tmp_path / "run"))[-1]
    assert (last.error, last.message, last.hint) == (
        "TrainingError",
        "the samples are too short",
        "Use longer files.",
    )
    assert exit_code(last) == 1


def test_a_bug_keeps_its_traceback_in_the_log(start, tmp_path):
    last = events_of(start("crash", tmp_path / "run"))[-1]
    assert (last.error, last.is_bug, exit_code(last)) == ("KeyError", True, 3)
    assert "return {}[config.n]" in JobFolder(tmp_path / "run").log_path.read_text()


def test_an_unexpected_exit_is_reported_once_to_many_pages(tmp_path):
    runner = JobRunner([sys.executable, "-c", CHILD])
    runner.start("exit", Count(), tmp_path / "run", own_process=True)
    while runner.busy:
        time.sleep(0.02)
    with ThreadPoolExecutor(8) as pages:
        seen = list(pages.map(lambda _: runner.poll()[0], range(8)))
    assert all([(type(e), e.error) for e in events] == [(Failed, "WorkerCrashed")] for events in seen)


def test_a_folder_is_used_by_one_process_at_a_time(tmp_path):
    runner = JobRunner()
    runner.start("count", Count(n=10_000), tmp_path)
    while not any(isinstance(e, Progressed) for e in runner.poll()[0]):
        time.sleep(0.01)
    with pytest.raises(JobBusy, match="another process is using"):
        run_job(tmp_path)
    with pytest.raises(JobBusy, match="another process is using"):
        write_job(tmp_path, "count", Count(n=1))
    assert JobFolder(tmp_path).read_job() == ("count", {"n": 10000})
    assert list_runs(tmp_path)[0].state == "running"
    runner.cancel()
    runner.join(20)
    assert list_runs(tmp_path)[0].state == "stopped"


def test_a_folder_without_a_job_and_an_unknown_job_are_rejected(tmp_path):
    with pytest.raises(JobError, match="does not exist"):
        run_job(tmp_path)
    with pytest.raises(JobError) as caught:
        write_job(tmp_path, "cuont", Count())
    assert "count" in caught.value.hint


def test_a_job_fails_with_disk_full_if_its_events_cannot_be_written(tmp_path, monkeypatch):
    write_job(tmp_path, "count", Count())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EventLog, "emit", full)
    last = run_job(tmp_path)
    assert (last.error, exit_code(last)) == ("DiskFull", 1)


def test_events_are_read_incrementally_and_an_incomplete_line_is_read_later(tmp_path):
    log = JobFolder(tmp_path).events
    assert log.read() == ([], 0)
    log.emit(Started(job="train", total=2, unit="steps"))
    first, offset = log.read()
    assert [type(e) for e in first] == [Started]
    with log.path.open("ab") as file:
        file.write(b'{"type": "Progr')
    assert log.read(offset) == ([], offset)
    with log.path.open("ab") as file:
        file.write(b'essed", "time_s": 1.0, "done": 1, "total": 2, "note": ""}\n')
    log.emit(Finished())
    more, _ = log.read(offset)
    assert more[0] == Progressed(time_s=1.0, done=1, total=2)
    assert isinstance(more[1], Finished)


def test_an_incomplete_line_is_skipped_and_an_unknown_event_is_kept(tmp_path):
    log = JobFolder(tmp_path).events
    log.emit(Progressed(done=1, total=2))
    with log.path.open("ab") as file:
        file.write(b'{"type": "Shouted", "volume": 3}\n{"type": "Progr')
    log.emit(Finished())
    assert [type(e) for e in log.read()[0]] == [Progressed, UnknownEvent, Finished]


def test_a_killed_run_is_listed_as_interrupted(tmp_path):
    write_job(tmp_path / "a", "count", Count())
    JobFolder(tmp_path / "a").events.emit(Started(job="count", total=3, unit="songs"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "job.json").write_text("{broken")
    assert [(run.folder.name, run.state) for run in list_runs(tmp_path)] == [("a", "interrupted")]


def test_a_folder_that_disappears_ends_the_job_with_a_clear_error(start, tmp_path):
    folder = tmp_path / "run"
    runner = start("count", folder, 100_000)
    watch = Watch(runner)
    watch.follow(folder)
    while not any(isinstance(event, Progressed) for event in JobFolder(folder).events.read()[0]):
        time.sleep(0.01)
    folder.rename(tmp_path / "renamed")
    assert runner.join(20)
    state, view = watch.read()
    assert state == "failed"
    assert f"the folder {folder} no longer exists" in view.last.message
    assert not view.last.is_bug
    assert not folder.exists()


def test_a_paused_job_notices_that_its_folder_is_gone(tmp_path):
    runner = JobRunner()
    runner.start("count", Count(n=100_000), tmp_path / "run")
    runner.pause()
    time.sleep(0.3)
    (tmp_path / "run").rename(tmp_path / "renamed")
    assert runner.join(20)
    assert isinstance(runner.last, Failed)


@pytest.mark.parametrize("jump_s", [-3 * 86_400, 3 * 86_400])
def test_a_change_of_the_clock_leaves_no_negative_or_absurd_estimate(jump_s):
    view = JobView()
    view.add(Started(job="count", total=100, unit="songs", time_s=1e9))
    for done in range(1, 6):
        view.add(Progressed(done=done, total=100, time_s=1e9 + done))
    assert view.seconds_left == pytest.approx(95)
    for done in range(6, 9):
        view.add(Progressed(done=done, total=100, time_s=1e9 + jump_s + done))
        assert view.seconds_left is None or 0 <= view.seconds_left <= 100
    assert view.seconds_left == pytest.approx(92)
