"""A start that cannot work is rejected before the run folder exists: on the command line, the page and the API."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acestep.adapters.configs import ADAPTERS
from acestep.adapters.metadata import AdapterMetadata
from acestep.cli.app import main
from acestep.core import files
from acestep.core.errors import (
    AceStepError,
    AdapterError,
    CheckpointError,
    ConfigError,
    DiskFull,
    JobBusy,
    ModelMismatch,
    StorageError,
    TensorError,
    TrainingError,
)
from acestep.core.events import Failed
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import check_job, run_job, write_job
from acestep.models.load import load_dit
from acestep.tensors.record import write_record
from acestep.training.configs import TrainJob
from acestep.ui.trainer.app_state import AppState
from acestep.ui.workspace import Workspace
from tests.adapters.small import LORA, save, trained
from tests.training.runs import LENGTHS, make_job, run, tensors_for
from tests.training.songs import make_record

Make = Callable[..., TrainJob]


@pytest.fixture(scope="module")
def tensors(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint, LENGTHS[:2])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tensors: Path, tiny_checkpoint: Path) -> Path:
    """A run of one epoch."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    run(make_job(tensors, tiny_checkpoint, folder, max_epochs=1))
    return folder


@pytest.fixture
def job(tensors: Path, tiny_checkpoint: Path, tmp_path: Path) -> Make:
    return lambda **settings: make_job(tensors, tiny_checkpoint, tmp_path / "runs" / "new", **settings)


def without(folder: Path, name: str, target: Path) -> Path:
    shutil.copytree(folder, target)
    (target / name).unlink()
    return target


def missing_model(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    return make().model_copy(update={"checkpoint": str(tmp_path / "no model")})


def incomplete_model(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    folder = without(Path(make().checkpoint), "silence_latent.pt", tmp_path / "acestep-v15-cut")
    return make().model_copy(update={"checkpoint": str(folder)})


def tensors_of_another_model(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    record = make_record(9, 4, seed=0, filename="a.wav", encoder_fingerprint="0" * 16, model_checkpoint="other")
    write_record(tmp_path / "tensors" / "a.pt", record)
    return make().model_copy(update={"tensor_dir": tmp_path / "tensors"})


def tensors_of_another_width(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    write_record(tmp_path / "tensors" / "a.pt", make_record(9, 4, seed=0, width=48, filename="a.wav"))
    return make().model_copy(update={"tensor_dir": tmp_path / "tensors"})


def no_tensors(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    (tmp_path / "tensors").mkdir()
    return make().model_copy(update={"tensor_dir": tmp_path / "tensors"})


def damaged_tensors(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    (tmp_path / "tensors").mkdir()
    (tmp_path / "tensors" / "a.pt").write_bytes(b"nothing")
    return make().model_copy(update={"tensor_dir": tmp_path / "tensors"})


def ranks_of_no_layer(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    return make(lora__ranks={"layers.99.mlp.up_proj": 4})


def too_large_a_rank_for_pissa(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    return make(lora__init="pissa", lora__r=4096)


def file_in_place_of_the_output_folder(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    (tmp_path / "runs").write_text("a file")
    return make()


def weights_of_another_kind(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    return make(resume=str(finished / "final" / "adapter"), adapter_type="lokr", max_epochs=9)


def weights_of_another_rank(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    return make(resume=str(finished / "final" / "adapter"), lora__r=2, max_epochs=9)


def weights_of_another_model(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    adapter = trained(load_dit(make().checkpoint), "lora", LORA)
    save(adapter, tmp_path / "adapter", AdapterMetadata(family="xl"))
    return make(resume=str(tmp_path / "adapter"))


def state_of_other_settings(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    return make(resume=str(finished), seed=7, max_epochs=9)


def nothing_to_resume(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    return make(resume=str(tmp_path / "no run"))


def unknown_device(make: Make, tmp_path: Path, finished: Path) -> TrainJob:
    return make().model_copy(update={"device": "cuda:77"})


CASES: list[tuple[Any, type[AceStepError], str]] = [
    (missing_model, CheckpointError, "not found"),
    (incomplete_model, CheckpointError, "silence_latent.pt is missing"),
    (tensors_of_another_model, ModelMismatch, "preprocessed with other"),
    (tensors_of_another_width, ModelMismatch, "width 48"),
    (no_tensors, TensorError, "no preprocessed samples"),
    (damaged_tensors, TensorError, "none of the 1 files"),
    (ranks_of_no_layer, AdapterError, "layers.99"),
    (too_large_a_rank_for_pissa, AdapterError, "4096"),
    (file_in_place_of_the_output_folder, StorageError, "cannot be written"),
    (weights_of_another_kind, AdapterError, "LoKr"),
    (weights_of_another_rank, AdapterError, "does not fit"),
    (weights_of_another_model, ModelMismatch, "xl family|was trained for"),
    (state_of_other_settings, TrainingError, "seed is 7 now and was 42"),
    (nothing_to_resume, TrainingError, "nothing to resume from"),
    (unknown_device, ConfigError, "cuda:77"),
]


@pytest.mark.parametrize(("case", "error", "message"), CASES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_start_that_cannot_work_leaves_no_run_folder(
    job: Make, tmp_path: Path, finished: Path, case: Any, error: type[AceStepError], message: str
) -> None:
    rejected = case(job, tmp_path, finished)
    app = AppState(Workspace(tmp_path))
    with pytest.raises(error, match=message) as found:
        app.start("train", rejected, rejected.out)
    assert type(found.value) is error
    assert not rejected.out.exists()
    assert not app.runner.busy
    assert app.rejected is not None
    assert app.rejected.error == error.code


@pytest.mark.parametrize("kind", ADAPTERS.names)
def test_every_kind_of_adapter_passes_the_check_and_writes_nothing(job: Make, kind: str) -> None:
    accepted = job(adapter_type=kind, attention_type="both", train_mlp=True)
    check_job("train", accepted)
    assert not accepted.out.parent.exists()
    check_job("train", job(lora__init="pissa"))


def test_a_run_can_start_from_its_own_weights_and_from_its_state(job: Make, finished: Path) -> None:
    check_job("train", job(resume=str(finished), max_epochs=9))
    check_job("train", job(resume=str(finished / "final" / "adapter"), max_epochs=9))
    JobFolder(finished).request_stop()  # as a run that the user stopped
    check_job("train", job(resume="auto", max_epochs=9).model_copy(update={"out": finished}))


def test_a_checkpoint_that_would_not_fit_on_the_disk_is_rejected(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=65 * 2**20))
    check_job("train", job(lora__r=4))
    with pytest.raises(DiskFull):
        check_job("train", job(lora__r=4096, lora__alpha=4096, attention_type="both"))


def test_a_folder_in_use_is_left_alone(job: Make) -> None:
    new = job()
    new.out.mkdir(parents=True)
    with JobFolder(new.out).lock(), pytest.raises(JobBusy):
        check_job("train", new)


def test_the_command_line_rejects_it_with_the_message_and_leaves_nothing(
    tensors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["train", str(tensors), "--checkpoint", str(tmp_path / "none"), "--out", str(out), "--json"]
    assert main(arguments) == 1
    assert '"error": "CheckpointError"' in capsys.readouterr().out
    assert not out.exists()


def test_a_failed_run_records_that_the_adapter_is_what_does_not_fit(job: Make, tmp_path: Path, finished: Path) -> None:
    rejected = weights_of_another_model(job, tmp_path, finished)
    write_job(rejected.out, "train", rejected)  # without the check
    last = run_job(rejected.out)
    assert isinstance(last, Failed)
    assert (last.error, last.subject) == ("ModelMismatch", "adapter")
