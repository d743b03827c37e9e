"""Two processes on the CPU train as one does with twice the batch, end together, and leave nobody behind."""

import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from acestep.core.config import parse
from acestep.core.errors import ConfigError
from acestep.core.events import Cancelled, Failed, Finished, LogMessage, Paused, StepLogged
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import run_job, write_job
from acestep.core.launcher import Launch
from acestep.core.paths import PROJECT
from acestep.models import connect
from acestep.training.configs import TrainJob
from acestep.training.distributed.launch_workers import worker_variables
from acestep.training.distributed.placement import choose_placement
from acestep.training.start_check import check_start
from acestep.training.state.run_folder import RunFolder
from acestep.training.state.tensor_tree import read_values
from tests.training.runs import log_of, make_job, of_kind, tensors_for

STEPS, EPOCHS = 20, 10
LENGTHS = [(24, 5), (17, 7), (30, 4), (21, 6), (26, 5), (19, 3), (28, 8), (22, 4)]  # seven to train on, one held out
CLOSE = {"rel": 0, "abs": 1e-5}
SETTINGS = {
    "max_epochs": EPOCHS,
    "scheduler_type": "constant",
    "cfg_dropout_prob": 0.3,
    "lora__dropout": 0.2,
    "measure_every_n_epochs": 5,
    "save_every_n_steps": 3,
    "auto_save_best_after": 1,
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As many as each of two processes has here; more would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint, LENGTHS)


@pytest.fixture(scope="module")
def job(tensors, tiny_checkpoint, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")

    def make(name, *, devices, **settings):
        """Four songs a step, on however many devices."""
        share = {"gradient_accumulation_steps": 4 // devices}
        made = make_job(tensors, tiny_checkpoint, root / name, **{**SETTINGS, **share, **settings})
        made.devices = devices
        return made

    return make


@pytest.fixture(scope="module")
def alone(job):
    """A run of one process with twice the batch."""
    config = job("alone", devices=1)
    write_job(config.out, "train", config)
    assert isinstance(run_job(config.out), Finished)
    return config.out


def last_state(out: Path) -> dict[str, torch.Tensor]:
    """The adapter in the newest checkpoint, exactly."""
    state = load_file(RunFolder(out).latest_checkpoint() / "state" / "state.safetensors")
    return {key: value for key, value in state.items() if key.startswith("adapter.")}


def saved_step(out: Path) -> int:
    return read_values(RunFolder(out).latest_checkpoint() / "state")["progress"]["step"]


def losses(out: Path) -> dict[int, float]:
    return {event.step: event.loss for event in of_kind(log_of(out), StepLogged)}


def assert_same_run(out: Path, other: Path) -> None:
    """The same loss at each step, the same figures, the same adapter."""
    assert sorted(losses(out)) == list(range(1, STEPS + 1))
    assert losses(out) == pytest.approx(losses(other), **CLOSE)
    metrics = [
        {name: value for name, value in of_kind(log_of(run), Finished)[-1].result.items() if "loss" in name}
        for run in (out, other)
    ]
    assert metrics[0] == pytest.approx(metrics[1], **CLOSE)
    ours, theirs = last_state(out), last_state(other)
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in ours) < 1e-5


def processes_of(folder: Path) -> dict[str, int]:
    """The workers of a run that are alive: number to process id."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        paths = [Path(argument) for argument in process.info["cmdline"] or [] if "workers" in argument]
        found |= {path.name: process.pid for path in paths if path.parent.parent == folder}
    return found


@dataclass
class Background:
    """A job that runs while the test interferes."""

    folder: Path
    last: list = field(default_factory=list)

    def __post_init__(self):
        self._thread = threading.Thread(target=lambda: self.last.append(run_job(self.folder)))
        self._thread.start()

    def wait_for_step(self, step):
        self._wait(lambda: step in losses(self.folder))

    def wait_for_pause(self):
        self._wait(lambda: of_kind(log_of(self.folder), Paused))

    def _wait(self, came):
        end = time.monotonic() + 400
        while not came():
            assert time.monotonic() < end
            assert self._thread.is_alive(), log_of(self.folder)[-1]
            time.sleep(0.02)

    def end(self):
        self._thread.join(400)
        assert not self._thread.is_alive()
        assert processes_of(self.folder) == {}
        return self.last[0]


def test_two_processes_of_torchrun_train_as_one_with_twice_the_batch_though_one_is_killed(job, alone):
    config = job("together", devices=2)
    config.devices = 1  # each process has one
    write_job(config.out, "train", config)
    log = config.out / "torchrun.txt"
    with log.open("w") as output:
        agent = psutil.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
            + ["-m", "acestep", "run", str(config.out)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while 5 not in losses(config.out):
            assert agent.poll() is None, log.read_text()
            time.sleep(0.05)
        (second,) = [child for child in agent.children() if child.environ()["RANK"] == "1"]
        second.kill()
        assert agent.wait(400) == 0, log.read_text()
    assert_same_run(config.out, alone)
    events = log_of(config.out)
    (crashed,) = of_kind(events, Failed)
    assert "The last good state is in" in crashed.hint
    resumed = [event.message for event in of_kind(events, LogMessage) if event.message.startswith("Resuming from")]
    assert len(resumed) == 1
    printed = log.read_text()
    assert printed.count(resumed[0]) == 1
    assert printed.count("fit_loss_before:") == 1
    assert not of_kind(log_of(JobFolder(config.out).worker(1).path), StepLogged)
    assert len(list((config.out / "logs").rglob("events.out.*"))) == 2  # one before, one after


def test_a_run_resumes_with_another_number_of_devices_after_stop_and_crash(job, alone):
    two = job("moved", devices=2)
    write_job(two.out, "train", two)
    running = Background(two.out)
    running.wait_for_step(2)
    JobFolder(two.out).request_pause()
    running.wait_for_pause()
    before = losses(two.out)
    time.sleep(0.5)
    assert losses(two.out) == before
    JobFolder(two.out).request_resume()
    running.wait_for_step(max(before) + 2)
    os.kill(processes_of(two.out)["1"], signal.SIGTERM)  # to the one that writes nothing
    stopped = running.end()
    assert isinstance(stopped, Cancelled)
    assert str(RunFolder(two.out).latest_checkpoint()) in stopped.message
    reached = max(losses(two.out))
    assert saved_step(two.out) == reached
    assert reached < STEPS - 6

    one = job("moved", devices=1, max_steps=reached + 3)
    one.resume = "auto"
    write_job(one.out, "train", one)
    assert isinstance(run_job(one.out), Finished)
    assert max(losses(one.out)) == reached + 3

    two.resume = "auto"
    write_job(two.out, "train", two)
    running = Background(two.out)
    running.wait_for_step(reached + 4)
    os.kill(processes_of(two.out)["1"], signal.SIGKILL)
    crashed = running.end()
    assert isinstance(crashed, Failed)
    assert (crashed.error, crashed.is_bug) == ("WorkerCrashed", True)
    assert "process 2 of 2 exited unexpectedly, exit code -9" in crashed.message
    assert f"The last good state is in {RunFolder(two.out).latest_checkpoint()}" in crashed.hint
    assert saved_step(two.out) == max(losses(two.out))

    one = job("moved", devices=1)
    one.resume = "auto"
    write_job(one.out, "train", one)
    assert isinstance(run_job(one.out), Finished)
    begun = [
        event.message for event in of_kind(log_of(one.out), LogMessage) if event.message.startswith("Resuming from")
    ]
    assert len(begun) == 3
    assert_same_run(one.out, alone)


def test_an_error_in_one_process_ends_both_and_a_model_can_be_sharded(tiny_checkpoint, tmp_path):
    command = [sys.executable, "-m", "tests.training.distributed.worker_script", str(tiny_checkpoint), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=PROJECT, env=environment | variables)
        for variables in worker_variables(2)
    ]
    assert [process.wait(400) for process in processes] == [0, 0]
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in "01"]
    for here in found:
        assert here["spoilt"] < 1e-6
        assert here["memory"] == "OutOfMemoryError: full"
        assert here["disk"] == "DiskFull: full Make room."
        for kind in ("lora", "lokr"):
            assert max(here[kind][what] for what in ("losses", "weights", "delivered")) < 1e-5
            assert here[kind]["share"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "said", "hint"),
    [
        ({"strategy": "fsdp", "devices": 2}, "strategy fsdp needs CUDA, but the device is cpu", "ddp"),
        (
            {"devices": 2, "device": "cuda"},
            "devices is 2, but PyTorch finds 1 CUDA devices",
            "number of available devices",
        ),
        ({"devices": 2, "device": "cuda:0"}, "devices is 2, but cuda:0 is a single device", "auto or cuda"),
        ({"strategy": "fsdp", "device": "cuda"}, "but devices is 1", "Raise devices"),
    ],
)
def test_unavailable_devices_are_rejected_with_a_hint(settings, said, hint, job, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    config = job("refused", devices=1).model_copy(update=settings)
    with pytest.raises(ConfigError, match=said) as refused:
        choose_placement(config)
    assert hint in refused.value.hint


def test_fsdp_is_rejected_before_the_run_where_pytorch_has_no_nccl(job, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    config = job("refused", devices=1).model_copy(update={"strategy": "fsdp", "devices": 2})
    for check in (choose_placement, check_start):
        with pytest.raises(ConfigError, match="fsdp needs NCCL, which this PyTorch for macOS does not") as refused:
            check(config)
        assert "Use strategy ddp" in refused.value.hint


def test_processes_on_gpus_connect_through_gloo_where_pytorch_has_no_nccl(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    monkeypatch.setattr(connect, "rendezvous", lambda *_, **__: iter([(None, 0, 2)]))
    backends = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: backends.append(backend))
    connect.connect(Launch(world_size=2), torch.device("cuda", 0))
    assert backends == ["gloo"]


def test_a_process_of_a_launcher_uses_the_gpu_of_its_local_rank_or_the_only_one_it_sees(job, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    config = job("placed", devices=1).model_copy(update={"device": "cuda"})
    config.training.mixed_precision = "fp32"
    found = {}
    for launcher in ("torchrun", "srun"):
        for count in (4, 1):
            monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
            try:
                placed = choose_placement(config, Launch(launcher, rank=6, world_size=8, local_rank=2))
                found[launcher, count] = placed.device.value
            except ConfigError as error:
                found[launcher, count] = str(error)
    assert found["torchrun", 4] == found["srun", 4] == "cuda:2"
    assert found["srun", 1] == "cuda"
    assert "process 3 on this machine, but it has 1 GPUs" in found["torchrun", 1]


def test_a_run_of_an_earlier_version_with_a_number_of_machines_is_read(job):
    config = job("old", devices=1)
    old = {**config.model_dump(mode="json"), "num_nodes": 2}
    assert parse(TrainJob, old) == config
