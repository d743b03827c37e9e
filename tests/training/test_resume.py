"""A run that was stopped, killed or changed goes on: exactly where it can, in words where it cannot."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from acestep.core.errors import JobCancelled, TrainingError
from acestep.core.events import LogMessage, Saved, StepLogged
from acestep.core.files import write_json
from acestep.core.jobs import write_job
from acestep.core.paths import PROJECT
from acestep.training.state.run_folder import RunFolder
from tests.training.runs import log_of, make_job, of_kind, run, tensors_for

STEPS = 40


@pytest.fixture(scope="module")
def tensors(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint)


@pytest.fixture
def job(tensors, tiny_checkpoint, tmp_path):
    def make(out="run", **settings):
        return make_job(tensors, tiny_checkpoint, tmp_path / out, **settings)

    return make


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_of_an_earlier_version_keeps_its_validation_songs(tmp_path, tiny_checkpoint):
    tensors = tensors_for(tmp_path / "tensors", tiny_checkpoint, [(20, 4)] * 8)
    settings = {"validation_percent": 50, "max_epochs": 2, "max_validation_songs": 0}
    before, _ = run(make_job(tensors, tiny_checkpoint, tmp_path / "run", **settings))
    file = RunFolder(tmp_path / "run").latest_checkpoint() / "state" / "state.json"
    content = json.loads(file.read_text())
    del content["state"]["fixed"]["max_validation_songs"]
    file.write_text(json.dumps(content))
    for epochs in (3, 4):
        settings |= {"max_epochs": epochs, "max_validation_songs": 2}
        result, events = run(make_job(tensors, tiny_checkpoint, tmp_path / "run", "auto", **settings))
        assert result["held_out"] == before["held_out"]
        assert len(result["held_out"]) == 4
        assert any("still holding out 4 songs" in event.message for event in of_kind(events, LogMessage))


def assert_same_end(one: Path, other: Path) -> None:
    """Weights, optimizer, random state, order of the songs, best epoch and loss history, to the last bit."""
    last = [RunFolder(out).latest_checkpoint() for out in (one, other)]
    assert last[0].name == last[1].name
    assert files(last[0]) == files(last[1])
    for name in ("best", "final"):
        assert files(one / name) == files(other / name)


def child(folder: Path) -> subprocess.Popen:
    """The job of ``folder`` in a process of its own."""
    output = (folder / "output.txt").open("ab")
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "acestep", "run", str(folder)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, cwd=PROJECT, stdout=output, stderr=output, env=environment
    )


def kill_at(folder: Path, step: int, delay_s: float) -> None:
    """Run the job, and end it without a chance to react somewhat after ``step``."""
    process = child(folder)
    deadline = time.monotonic() + 120
    while all(event.step < step for event in of_kind(log_of(folder), StepLogged)):
        assert process.poll() is None, (folder / "output.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(delay_s)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_a_run_killed_twice_equals_an_uninterrupted_one(kind, job):
    chance = random.Random(f"{kind} 1")
    settings = {"adapter_type": kind, "max_epochs": 20, "max_steps": STEPS, "save_every_n_steps": 7}
    settings |= {"auto_save_best_after": 4, "cfg_dropout_prob": 0.3, "lora__dropout": 0.2, "lokr__dropout": 0.2}
    settings |= {"measure_every_n_epochs": 3}
    whole, broken = job("whole", **settings), job("broken", **settings)
    run(whole)
    write_job(broken.out, "train", broken)
    done = []  # steps until each kill
    for earliest, latest in ((9, 15), (24, 33)):
        kill_at(broken.out, chance.randint(earliest, latest), chance.uniform(0, 0.03))
        done.append([event.step for event in of_kind(log_of(broken.out), StepLogged)])
    broken.resume = "auto"
    _, events = run(broken)
    assert_same_end(whole.out, broken.out)
    begun_again = [done[1][len(done[0])], of_kind(events, StepLogged)[0].step]
    assert all(step % 7 == 1 and step > 1 for step in begun_again)


STOPPED = {"lora__dropout": 0.3, "lokr__dropout": 0.3, "auto_save_best_after": 1, "max_epochs": 6}


@pytest.fixture(scope="module", params=["lora", "lokr"])
def unbroken(request, tensors, tiny_checkpoint, tmp_path_factory):
    """The kind of adapter and the folder of a run that nobody stopped."""
    job = make_job(tensors, tiny_checkpoint, tmp_path_factory.mktemp("unbroken"), adapter_type=request.param, **STOPPED)
    run(job)
    return request.param, job.out


@pytest.mark.parametrize("asked", [1, 8, 15])
def test_a_run_stopped_anywhere_resumes_exactly(asked, unbroken, job):
    """Before the first step, in the middle of an accumulation and, in the third epoch, of an epoch."""
    kind, whole = unbroken
    stopped = job("stopped", adapter_type=kind, **STOPPED)
    measured = 5 + 5  # songs read and measured before the first step, each of which asks as well
    asks = iter(range(10_000))
    with pytest.raises(JobCancelled, match="Everything is saved in") as message:
        run(stopped, stop_when=lambda: next(asks) >= measured + asked)
    saved = RunFolder(stopped.out).latest_checkpoint()
    assert str(saved) in str(message.value)
    assert not RunFolder(stopped.out).final.exists()
    stopped.resume = "auto"
    _, events = run(stopped)
    assert_same_end(whole, stopped.out)
    assert any(f"Resuming from {saved}" in event.message for event in of_kind(events, LogMessage))


def test_a_finished_run_is_exported_again_and_resumes_with_more_epochs(job):
    first, _ = run(job())
    again, events = run(job(resume="auto"))
    assert {**again, "adapter": ""} == {**first, "adapter": ""}
    assert of_kind(events, StepLogged) == []
    longer, events = run(job(resume="auto", max_epochs=6))
    assert (longer["epochs"], longer["steps"]) == (6, 18)
    assert [event.step for event in of_kind(events, StepLogged)] == list(range(13, 19))
    rates = [event.lr for event in of_kind(events, StepLogged)]
    assert rates[0] > 5e-4  # the schedule is that of eighteen steps, not the end of one of twelve
    assert rates == sorted(rates, reverse=True)


def test_resuming_from_an_earlier_checkpoint_repeats_the_same_steps(job):
    run(job(save_every_n_epochs=1))
    before = files(RunFolder(job().out).checkpoints / "epoch_4" / "state")
    run(job(save_every_n_epochs=1, resume=str(job().out / "checkpoints" / "epoch_2")))
    assert files(RunFolder(job().out).checkpoints / "epoch_4" / "state") == before


def test_a_run_resumes_with_another_batch_size_learning_rate_or_weight_decay(job):
    run(job(max_steps=4))
    changed = {"batch_size": 2, "gradient_accumulation_steps": 1, "learning_rate": 1e-3, "weight_decay": 0.5}
    result, events = run(job(resume="auto", **changed))
    assert result["epochs"] == 4
    assert max(event.lr for event in of_kind(events, StepLogged)) <= 1e-3


def test_the_baseline_is_evaluated_again_when_the_crop_changes(job):
    first, _ = run(job(max_steps=1))
    same, _ = run(job(resume="auto", max_steps=2))
    other, _ = run(job(resume="auto", max_steps=3, max_latent_length=10))
    assert same["fit_loss_before"] == first["fit_loss_before"]
    assert other["fit_loss_before"] != first["fit_loss_before"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lora__r": 8}, "lora.r is 8 now and was 4"),
        ({"attention_type": "self"}, "attention_type is self now and was cross"),
        ({"adapter_type": "lokr"}, "adapter_type is lokr now and was lora"),
        ({"seed": 1, "optimizer_type": "adafactor"}, "optimizer_type is adafactor now and was adamw; seed is 1 now"),
    ],
)
def test_changed_fixed_settings_are_rejected_by_name(job, changes, named):
    run(job(max_steps=1))
    with pytest.raises(TrainingError, match="with other settings") as error:
        run(job(resume="auto", **changes))
    assert named in str(error.value)
    assert RunFolder(job().out).read_settings()["lora"]["r"] == 4


def test_other_samples_are_rejected(job, tiny_checkpoint, tmp_path):
    run(job(max_steps=1))
    fewer = tensors_for(tmp_path / "fewer", tiny_checkpoint, [(24, 5)])
    with pytest.raises(TrainingError, match="songs is"):
        run(make_job(fewer, tiny_checkpoint, job().out, resume="auto"))


def test_a_new_run_is_rejected_in_the_folder_of_another_and_changes_nothing(job):
    run(job(max_steps=1))
    before = files(job().out)
    with pytest.raises(TrainingError, match="already holds a run"):
        run(job(max_steps=1))
    assert files(job().out) == before


def test_a_run_resumes_from_adapter_weights_only_and_warns(job, tmp_path):
    run(job(auto_save_best_after=1, max_epochs=6))
    shutil.rmtree(job().out / "checkpoints")
    result, events = run(job(resume="auto", max_epochs=8))
    warnings = [event.message for event in of_kind(events, LogMessage) if event.warning]
    assert any("adapter weights only" in text and "after epoch 6" in text for text in warnings)
    assert [event.step for event in of_kind(events, StepLogged)] == list(range(19, 25))
    assert result["epochs"] == 8
    shutil.rmtree(job().out / "checkpoints")
    with pytest.raises(TrainingError, match="trained for 8 epochs already"):
        run(job(resume="auto", max_epochs=8))


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_weights_of_another_run_start_from_its_epoch(kind, job):
    first, _ = run(job("first", adapter_type=kind, max_epochs=8, learning_rate=2e-2))
    source = job("first").out / "final"
    result, events = run(job("second", adapter_type=kind, resume=str(source), max_steps=1, learning_rate=1e-9))
    assert [event.step for event in of_kind(events, StepLogged)] == [1]
    assert result["fit_loss"] == pytest.approx(first["fit_loss"], rel=1e-3)
    assert result["fit_loss_before"] == first["fit_loss_before"]
    assert first["fit_loss"] < first["fit_loss_before"]


def test_a_run_of_ace_lora_trainer_resumes_from_its_weights_and_epoch(job):
    """Its files have no card and alpha beside r: the weights are taken by their scale."""
    run(job("ours", max_epochs=2))
    theirs = job("theirs").out / "checkpoints" / "epoch_2_loss_0.5" / "adapter"
    theirs.mkdir(parents=True)
    ours = load_file(job("ours").out / "final" / "adapter" / "adapter_model.safetensors")
    halved = {key: value.float() / (2 if ".lora_B." in key else 1) for key, value in ours.items()}
    save_file(halved, theirs / "adapter_model.safetensors")
    write_json(theirs / "adapter_config.json", {"peft_type": "LORA", "r": 4, "lora_alpha": 8})
    (theirs.parent / "training_state.pt").write_bytes(b"a pickle that is never opened")
    result, events = run(job("theirs", resume="auto", max_epochs=3))
    assert [event.step for event in of_kind(events, StepLogged)] == [7, 8, 9]
    assert result["epochs"] == 3
    assert [event.role for event in of_kind(events, Saved)] == ["checkpoint", "final"]
