"""Which run the page offers to resume, and what it offers after a failure."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from acestep.core.errors import error_class
from acestep.core.events import Cancelled, Failed, Finished
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import write_job
from acestep.training.configs import TrainingConfig, TrainJob
from acestep.training.state.run_folder import STATE
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.recovery import recovery_for, recovery_of_rejected
from acestep.ui.trainer.resumable import newest_to_resume, run_to_resume, runs_to_resume
from acestep.ui.workspace import Workspace
from tests.training.runs import tensors_for

TABS = ("service", "dataset", "preprocess", "train", "listen", "export", "runs", "system")


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint, [(20, 4)])


@pytest.fixture
def app(tmp_path: Path) -> Iterator[AppState]:
    app = AppState(Workspace(tmp_path))
    yield app
    app.close()


def make_run(app: AppState, name: str, tensors: Path, checkpoint: Path, *saved: str) -> Path:
    """A stopped run with these folders; each call makes a newer one."""
    folder = app.runs_folder / name
    number = len(list(app.runs_folder.glob("*")))
    write_job(folder, "train", TrainJob(tensor_dir=tensors, checkpoint=str(checkpoint), out=folder))
    JobFolder(folder).events.emit(Cancelled())
    for each in saved:
        (folder / each).mkdir(parents=True)
    os.utime(folder, (1000 + number, 1000 + number))
    app.clear_cache()
    return folder


def test_the_newest_run_that_can_be_resumed_is_preselected_and_the_others_have_a_reason(
    app: AppState, tensors: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    state = f"checkpoints/epoch_2/{STATE}"
    gone = Path(shutil.copytree(tensors, tmp_path / "gone"))
    good = make_run(app, "good", tensors, tiny_checkpoint, state)
    make_run(app, "weights only", tensors, tiny_checkpoint, "final/adapter")
    make_run(app, "without tensors", gone, tiny_checkpoint, state)
    make_run(app, "without model", tensors, tmp_path / "acestep-v15-gone", state)
    running = make_run(app, "running", tensors, tiny_checkpoint, state)
    make_run(app, "failed at once", tensors, tiny_checkpoint)
    shutil.rmtree(gone)
    with JobFolder(running).lock():
        app.clear_cache()
        runs = runs_to_resume(app)
    newest = newest_to_resume(runs)
    assert newest is not None
    assert newest.folder == good
    assert [run.label.replace(str(tmp_path), "") for run in runs] == [
        "failed at once (nothing was saved yet)",
        "running (running)",
        "without model (its model /acestep-v15-gone is missing)",
        "without tensors (its tensors in /gone are missing)",
        "weights only",
        "good",
    ]
    (good / "job.json").write_text("{")
    assert "job.json" in run_to_resume(app, good).problem


def test_a_run_with_weights_only_is_preselected_if_none_has_a_state(
    app: AppState, tensors: Path, tiny_checkpoint: Path
) -> None:
    assert newest_to_resume(runs_to_resume(app)) is None
    make_run(app, "weights only", tensors, tiny_checkpoint, "best/adapter")
    make_run(app, "nothing", tensors, tiny_checkpoint)
    newest = newest_to_resume(runs_to_resume(app))
    assert newest is not None
    assert newest.label == "weights only"


@pytest.mark.parametrize(
    ("code", "label", "tab"),
    [
        ("LossNotFinite", "Halve the learning rate and resume", ""),
        ("OutOfMemory", "Use less memory and resume", ""),
        ("CheckpointError", "Choose a model in 1. Service", "service"),
        ("ModelMismatch", "Encode again in 3. Preprocess", "preprocess"),
        ("TensorError", "Encode again in 3. Preprocess", "preprocess"),
        ("AdapterError", "Change the adapter in 4. Train", "train"),
        ("ConfigError", "Change the settings in 4. Train", "train"),
        ("TrainingError", "Change the settings in 4. Train", "train"),
        ("NotWritable", "Change the output folder in 4. Train", "train"),
        ("DiskFull", "Try again", ""),
        ("MissingPackage", "Check this computer in System", "system"),
        ("WorkerCrashed", "Resume Training", ""),
        ("KeyError", "Resume Training", ""),
    ],
)
def test_a_failed_run_offers_what_helps(code: str, label: str, tab: str) -> None:
    found = recovery_for("failed", Failed(error=code, message="m"))
    assert found is not None
    assert (found.label, found.tab) == (label, tab)
    assert found.tab in ("", *TABS)


def test_an_adapter_that_does_not_fit_offers_another_model_and_not_preprocessing() -> None:
    found = recovery_for("failed", Failed(error="ModelMismatch", message="m", subject="adapter"))
    assert found is not None
    assert (found.label, found.tab) == ("Choose the model of the adapter in 1. Service", "service")


def test_a_loss_that_overflowed_in_fp16_offers_fp32() -> None:
    found = recovery_for("failed", Failed(error="LossNotFinite", message="m", subject="fp16"))
    assert found is not None
    assert found.label == "Compute in fp32 and resume"
    assert found.change(TrainingConfig(mixed_precision="fp16")) == {"mixed_precision": "fp32"}


def test_a_run_that_saved_nothing_is_started_again_instead_of_resumed() -> None:
    labels = [
        found.label
        for last in (Failed(error="KeyError", message="m"), Failed(error="OutOfMemory", message="m"), Cancelled())
        if (found := recovery_for("failed", last, saved=False))
    ]
    assert labels == ["Start again", "Use less memory and start again", "Start again"]
    assert recovery_for("done", Finished()) is None


def test_a_rejected_start_offers_only_other_tabs() -> None:
    offered = {
        code: found.tab
        for code in ("ModelMismatch", "CheckpointError", "AdapterError", "DiskFull", "MissingPackage")
        if error_class(code) and (found := recovery_of_rejected(Failed(error=code, message="m")))
    }
    assert offered == {"ModelMismatch": "preprocess", "CheckpointError": "service", "MissingPackage": "system"}
