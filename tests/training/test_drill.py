"""Jobs that meet trouble at random moments go on and end as if nothing had been. The long drill: ``drill.py``."""

import os
import random
import subprocess
import sys

import torch

from acestep.cli.app import main
from acestep.core.events import Cancelled, Failed, Finished
from acestep.core.files import remove_temporary_files
from acestep.core.job_runner import JobRunner
from acestep.core.jobs import run_job, write_job
from acestep.core.paths import PROJECT
from acestep.training import session
from dev.drill import commands
from dev.drill.checks import temporaries
from dev.drill.jobs import works
from dev.drill.run import KINDS, Drill, table
from tests.training.runs import log_of, make_job, tensors_for

SEED = 31  # a kill, a stop and a full disk


def test_three_faults_leave_every_file_complete_and_the_result_unchanged(tmp_path, tiny_checkpoint):
    drill = Drill(tmp_path, seed=SEED)
    drill.run(works(tmp_path, tiny_checkpoint)[:3], kills=3, per_life=1)
    assert not drill.broken
    assert {struck.verdict for struck in drill.struck} == {"same end"}
    assert len({struck.fault for struck in drill.struck}) == 3
    assert {"lora", "lokr", "one pass"} == set(drill.compared)
    assert len(list(table(drill.struck))) == 2 + 3


def test_an_export_and_a_download_that_are_killed_finish_with_the_same_files(tmp_path, tiny_checkpoint):
    with commands.served():
        for command in commands.commands(tmp_path, tiny_checkpoint, with_captions=False):
            [line] = commands.drill(tmp_path, command, 1, random.Random(SEED))
            assert line.endswith("same result")


def test_a_run_survives_a_freeze_and_a_read_only_disk(tmp_path, tiny_checkpoint, monkeypatch):
    drill = Drill(tmp_path, seed=SEED)
    monkeypatch.setattr(drill, "_faults", lambda kills: ["SIGSTOP", "read-only disk"])
    drill.run(works(tmp_path, tiny_checkpoint)[:1], kills=2, per_life=1)
    assert not drill.broken
    assert [struck.fault for struck in drill.struck] == ["SIGSTOP", "read-only disk"]


def test_a_drill_of_every_kind_of_fault_can_be_repeated(tmp_path):
    one, other, another = (Drill(tmp_path, seed)._faults(20) for seed in (1, 1, 2))
    assert one == other != another
    assert sorted(one) == sorted(KINDS * 2)


def test_only_what_ended_processes_have_left_is_removed(tmp_path):
    code = "import os; print(os.getpid())"
    ended = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, cwd=PROJECT, capture_output=True, text=True
    ).stdout.strip()
    for name in (f".song.pt.{ended}.tmp", f".other.json.{os.getppid()}.tmp", f"a song.{ended}.tmp", ".note.tmp"):
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f".other.json.{os.getppid()}.tmp",
        f"a song.{ended}.tmp",
        ".note.tmp",
    }
    assert len(temporaries(tmp_path)) == 2


def test_a_stop_requested_while_a_process_starts_counts_once(tmp_path, tiny_checkpoint):
    job = make_job(tensors_for(tmp_path / "tensors", tiny_checkpoint, [(20, 6)]), tiny_checkpoint, tmp_path / "run")
    write_job(job.out, "train", job)
    (job.out / "cancel").touch()
    own_process = JobRunner()._command[3:]
    assert main([*own_process, str(job.out)]) == 130
    assert isinstance(log_of(job.out)[-1], Cancelled)
    assert main(["run", str(job.out)]) == 0
    assert isinstance(log_of(job.out)[-1], Finished)


def test_out_of_memory_while_loading_is_reported_with_a_hint(tmp_path, tiny_checkpoint, monkeypatch):
    def scarce(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr(session, "load_dit", scarce)
    job = make_job(tensors_for(tmp_path / "tensors", tiny_checkpoint, [(20, 6)]), tiny_checkpoint, tmp_path / "run")
    write_job(job.out, "train", job)
    last = run_job(job.out)
    assert isinstance(last, Failed)
    assert not last.is_bug
    assert last.message == "the device ran out of memory"
    assert last.hint
