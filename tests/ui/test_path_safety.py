"""What the trainer refuses: paths that lead out of its folder, removing what it did not make, starting twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acestep.core.errors import AceStepError, JobBusy, JobError, StorageError, TrainingError
from acestep.core.event_log import EventLog
from acestep.core.events import Cancelled
from acestep.core.jobs import write_job
from acestep.exporting.configs import MergeJob
from acestep.training.configs import TrainJob
from acestep.ui.settings import Settings
from acestep.ui.trainer.api import Api
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.export_tab import export
from acestep.ui.trainer.merge_panel import start_merging
from acestep.ui.trainer.resumable import resume_choices
from acestep.ui.trainer.runs import delete_run
from acestep.ui.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "program").mkdir()
    return Workspace(tmp_path / "program")


@pytest.fixture
def app(workspace: Workspace) -> Iterator[AppState]:
    app = AppState(workspace)
    yield app
    app.close()


def make_run(folder: Path) -> Path:
    """A training that was stopped, with everything that one leaves."""
    write_job(folder, "train", TrainJob(tensor_dir=folder, checkpoint="none", out=folder))
    EventLog(folder / "events.jsonl").emit(Cancelled(message="by hand"))
    for name in ("checkpoints/epoch_1/adapter", "best/adapter", "final/adapter", "logs", "samples", "workers"):
        (folder / name).mkdir(parents=True)
    for name in ("training.json", "log.txt", "final/adapter/adapter_model.safetensors"):
        (folder / name).write_text("{}")
    return folder


OUTSIDE = ["/etc/x", "../x", "exports/../../x", "~/x", "link/x", "link/../x", "."]


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_is_written_outside_the_programs_folder(app: AppState, tmp_path: Path, path: str) -> None:
    elsewhere = tmp_path / "elsewhere" / "deep"
    elsewhere.mkdir(parents=True)
    (app.workspace.root / "link").symlink_to(elsewhere)
    adapter = make_run(app.workspace.root / "lora_output" / "run") / "final" / "adapter"
    with pytest.raises(StorageError, match="outside"):
        export(app, str(adapter), "acestep", path)
    with pytest.raises(StorageError, match="outside"):
        start_merging(app, MergeJob(checkpoint="none", adapter=adapter, out=Path(path)))
    assert not any(elsewhere.iterdir())
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "path", ["\\\\server\\share", "//server/share", '"\\\\server\\share"', "a\0b", " ", "~nobody-here/x"]
)
def test_network_paths_are_rejected(workspace: Workspace, path: str) -> None:
    for ask in (workspace.path, workspace.folder, workspace.file, workspace.inside):
        with pytest.raises(StorageError):
            ask(path, "Folder")


@pytest.mark.parametrize("path", ["x" * 300, "a/" + "\u00fc" * 200, "\ud800", "x/" * 3000 + "x"])
def test_paths_that_no_file_system_takes_are_rejected(workspace: Workspace, path: str) -> None:
    for ask in (workspace.folder, workspace.file):
        with pytest.raises(StorageError):
            ask(path, "Folder")
    for ask in (workspace.path, workspace.inside):
        if "/x" not in path:
            with pytest.raises(StorageError, match="Folder"):
                ask(path, "Folder")


def test_a_run_is_removed_with_all_that_training_made(app: AppState) -> None:
    run = make_run(app.workspace.root / "lora_output" / "run")
    delete_run(app, "run")
    assert not run.exists()


@pytest.mark.parametrize("name", ["", ".", "..", "../music", "/etc", "run/final", "no such run"])
def test_only_the_name_of_a_run_removes_one(app: AppState, name: str) -> None:
    run = make_run(app.workspace.root / "lora_output" / "run")
    with pytest.raises(JobError):
        delete_run(app, name)
    assert (run / "final" / "adapter" / "adapter_model.safetensors").is_file()


def test_a_folder_with_foreign_files_is_not_removed(app: AppState) -> None:
    run = make_run(app.workspace.root / "lora_output" / "run")
    (run / "my song.wav").write_bytes(b"music")
    with pytest.raises(JobError, match="my song.wav"):
        delete_run(app, "run")
    assert (run / "my song.wav").is_file()


def test_a_folder_that_is_no_run_is_not_removed(app: AppState) -> None:
    folder = app.workspace.root / "lora_output" / "songs"
    folder.mkdir(parents=True)
    with pytest.raises(AceStepError):
        delete_run(app, "songs")
    assert folder.is_dir()


def test_runs_outside_the_programs_folder_are_not_removed(app: AppState, tmp_path: Path) -> None:
    run = make_run(tmp_path / "elsewhere" / "run")
    app.settings.put({"train.out": str(run.parent)})
    with pytest.raises(StorageError, match="outside"):
        delete_run(app, "run")
    app.settings.put({"train.out": "lora_output"})
    (app.workspace.root / "lora_output").mkdir()
    (app.workspace.root / "lora_output" / "link").symlink_to(run)
    with pytest.raises(StorageError):
        delete_run(app, "link")
    assert (run / "training.json").is_file()


def test_a_new_run_does_not_mix_with_an_existing_one(app: AppState) -> None:
    run = make_run(app.workspace.root / "lora_output" / "run")
    before = (run / "job.json").read_bytes()
    with pytest.raises(TrainingError, match="already holds a run"):
        app.start("train", TrainJob(tensor_dir=run, checkpoint="another", out=run), run)
    assert (run / "job.json").read_bytes() == before


def test_a_run_of_another_process_is_neither_removed_nor_started(app: AppState) -> None:
    from filelock import FileLock

    run = make_run(app.workspace.root / "lora_output" / "run")
    (run / "events.jsonl").unlink()
    with FileLock(run / "lock"):
        with pytest.raises(JobBusy):
            delete_run(app, "run")
        shutil.rmtree(run / "final")
        with pytest.raises(JobBusy):
            app.start("train", TrainJob(tensor_dir=run, checkpoint="none", out=run, resume="auto"), run)
    assert (run / "checkpoints").is_dir()


def test_a_run_resumes_from_its_newest_state_or_any_checkpoint_in_step_order(tmp_path: Path) -> None:
    for name in ("epoch_9", "epoch_10", "epoch_2", "epoch_10_step_70"):
        (tmp_path / "checkpoints" / name / "adapter").mkdir(parents=True)
    for name in ("best", "final"):
        (tmp_path / name / "adapter").mkdir(parents=True)
    words = [words.partition(" (")[0] for words, _ in resume_choices(tmp_path)]
    assert words == ["latest", "epoch_10", "epoch_10_step_70", "epoch_9", "epoch_2", "best", "final"]


def test_a_file_in_place_of_a_folder_is_reported_with_its_folder(workspace: Workspace) -> None:
    song = workspace.root / "song.wav"
    song.touch()
    with pytest.raises(StorageError, match="Audio Directory: .*song.wav is a file") as caught:
        workspace.folder(str(song), "Audio Directory")
    assert caught.value.hint == f"Its folder is {workspace.root}"


@pytest.mark.parametrize("path", OUTSIDE)
def test_jobs_started_through_the_api_write_only_inside_the_programs_folder(
    app: AppState, tmp_path: Path, path: str
) -> None:
    (app.workspace.root / "tensors").mkdir()
    (app.workspace.root / "link").symlink_to(tmp_path)
    api, songs = Api(app), {"source": "tensors", "checkpoint": "none"}
    with pytest.raises(StorageError, match="outside"):
        api.start_preprocessing({**songs, "out": path})
    with pytest.raises(StorageError, match="outside"):
        api.start_training({"tensor_dir": "tensors", "checkpoint": "none", "out": path})
    with pytest.raises(StorageError, match="outside"):
        api.start_estimating({"tensor_dir": "tensors", "checkpoint": "none", "out": path})
    with pytest.raises(StorageError, match="outside"):
        api.start_estimating({"tensor_dir": str(tmp_path), "checkpoint": "none"})
    assert not app.runner.busy
    assert sorted(found.name for found in tmp_path.iterdir()) == ["program"]


def test_saved_network_paths_are_not_opened(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    share = "\\\\host\\share"
    saved = Settings(workspace.state_folder / "trainer.json")
    saved.put({"last.train": share, "service.checkpoint": share, "service.folder": share, "train.tensors": share})
    asked: list[str] = []
    for name in ("stat", "scandir", "listdir"):
        original = getattr(os, name)

        def record(path: object = ".", *rest: object, original: Any = original, **options: object) -> Any:
            asked.append(str(path))
            return original(path, *rest, **options)

        monkeypatch.setattr(os, name, record)
    app = AppState(workspace)
    app.watches["train"].read()
    app.checkpoints()
    for read in (app.checkpoint, app.tensors):
        with pytest.raises(AceStepError):
            read()
    assert not [path for path in asked if "host" in path]


def test_a_merge_leaves_nothing_beside_the_model(app: AppState) -> None:
    adapter = make_run(app.workspace.root / "lora_output" / "run") / "final" / "adapter"
    folder = start_merging(app, MergeJob(checkpoint="none", adapter=adapter, out=Path("checkpoints/merged")))
    app.runner.join(20)
    assert app.watches["merge"].read()[0] == "failed"
    assert app.workspace.state_folder in folder.parents
    assert not (app.workspace.root / "checkpoints").exists()
