"""Processes that torchrun or SLURM started, described by environment variables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import typer

from acestep.cli.console import run_in_terminal
from acestep.core import jobs
from acestep.core.errors import ConfigError, WorkerCrashed
from acestep.core.events import Finished
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import Context
from acestep.core.launcher import SINGLE, Launch, detect_launch
from tests.core.fake_jobs import TABLE, Count

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "8",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "gpu[03-04]",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*TORCHRUN, *SRUN}:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_process_without_a_launcher_is_single() -> None:
    assert detect_launch() == SINGLE
    assert (SINGLE.world_size, SINGLE.is_main) == (1, True)


def test_torchrun_states_rank_and_world_size(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, TORCHRUN)
    assert detect_launch() == Launch("torchrun", 5, 8, 1, 4, agent=os.getppid())


def test_slurm_states_rank_and_world_size_and_the_address_of_the_first_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, SRUN)
    assert detect_launch() == Launch("srun", 6, 8, 2, 4)
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu03", str(15000 + 4711))


def test_torchrun_in_a_slurm_job_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, SRUN | TORCHRUN)
    assert detect_launch().launcher == "torchrun"


@pytest.mark.parametrize("name", ["bash", "interactive"])
def test_an_interactive_slurm_shell_is_not_a_launcher(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, SRUN | {"SLURM_JOB_NAME": name})
    assert detect_launch() == SINGLE


def test_srun_without_the_number_of_processes_per_machine_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, {name: value for name, value in SRUN.items() if name != "SLURM_NTASKS_PER_NODE"})
    with pytest.raises(ConfigError, match="ntasks") as error:
        detect_launch()
    assert "--ntasks-per-node" in error.value.hint


def test_a_job_whose_torchrun_agent_is_gone_ends(tmp_path: Path) -> None:
    context = Context(tmp_path, launch=Launch("torchrun", 1, 2, agent=os.getpid()))
    with pytest.raises(WorkerCrashed, match="torchrun agent of process 2 of 2 is gone") as error:
        context.stop_if_cancelled()
    assert "same command" in error.value.hint


def test_only_rank_0_prints_and_uses_the_folder_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(jobs, "JOBS", {**jobs.JOBS, "count": jobs.JobType(**vars_of(TABLE["count"]), distributed=True)})
    monkeypatch.setattr("acestep.cli.console.JOBS", jobs.JOBS)
    printed = {}
    for rank in ("1", "0"):
        set_variables(monkeypatch, TORCHRUN | {"RANK": rank})
        with pytest.raises(typer.Exit) as exited:
            run_in_terminal("count", Count(n=1), tmp_path, json_output=True)
        assert exited.value.exit_code == 0
        printed[rank] = capsys.readouterr()
    assert (printed["1"].out, printed["1"].err) == ("", "")
    assert '"counted": 1' in printed["0"].out
    assert "[1/1]" in printed["0"].err
    for folder in (JobFolder(tmp_path), JobFolder(tmp_path).worker(1)):
        assert isinstance(folder.events.read()[0][-1], Finished)


def vars_of(job: jobs.JobType) -> dict[str, str]:
    return {"config": job.config, "run": job.run}


def test_a_job_that_cannot_be_shared_is_rejected_under_a_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acestep.cli.console.JOBS", {**jobs.JOBS, **TABLE})
    set_variables(monkeypatch, TORCHRUN)
    with pytest.raises(ConfigError, match="count runs in one process, but torchrun started 8 processes"):
        run_in_terminal("count", Count(n=1), tmp_path, json_output=False)
    assert not list(tmp_path.iterdir())
