"""What all open pages of the trainer share: the songs, the settings, the jobs, the models in memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config
from acestep.core.errors import CheckpointError, JobBusy, StorageError
from acestep.core.job_folder import JobFolder
from acestep.core.job_runner import JobRunner
from acestep.models.checkpoint import Checkpoint, find_checkpoint, list_checkpoints
from acestep.preprocessing.configs import PreprocessJob
from acestep.tensors.manifest import NAME as MANIFEST
from acestep.tensors.manifest import Manifest, read_manifest
from acestep.training.configs import TrainJob
from acestep.training.gpu_monitor import VRAMStatus
from acestep.training.state.run_folder import ADAPTER, RunFolder
from acestep.ui.gpu_status import GPUStatus
from acestep.ui.service import SERVICE
from acestep.ui.settings import Settings
from acestep.ui.trainer.editable_dataset import EditableDataset
from acestep.ui.watch import ACTIVE, Watch
from acestep.ui.workspace import Workspace

T = TypeVar("T")

JOB_NAMES = {
    "preprocess": "preprocessing",
    "train": "training",
    "generate": "making a piece of music",
    "compare": "making pieces to compare",
    "estimate": "the estimation",
    "merge": "merging",
    "download": "a download",
}
_OWN_MEMORY = ("preprocess", "train", "estimate")  # these load models of their own
RUNS, TENSORS = "lora_output", str(PreprocessJob.model_fields["out"].default)  # where things are by default
_SAVE_S = 60  # how long a job may take to save when the program is closed
_LISTING_S = 3.0


class AppState:
    """Made once in a program; every page and every call of the API works on it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.service = workspace, SERVICE
        self.settings = Settings(workspace.memory / "trainer.json")
        self.songs = EditableDataset(workspace.memory / "dataset.json")
        self.runner, self.downloader = JobRunner(), JobRunner()
        self.watches = {name: Watch(self.runner_of(name)) for name in JOB_NAMES}
        for name, watch in self.watches.items():
            folder = self.settings.text(f"last.{name}")
            watch.follow(Path(folder) if folder else None)
        self._card = GPUStatus()
        self._cache: dict[str, tuple[float, Any]] = {}  # name -> (when it was looked up, what was found)

    def start(self, job: str, config: Config, folder: Path) -> Path:
        """Begin a job in ``folder``.

        Raises:
            JobBusy: saying what is running.
            TrainingError: a new run would mix with the one that is there. StorageError.
        """
        runner = self.runner_of(job)
        if runner.busy:
            raise JobBusy(f"{self.current_job(runner)} is running", hint="Stop it, or wait until it is done.")
        if isinstance(config, TrainJob) and config.resume is None:
            RunFolder(folder).require_empty()
        if job in _OWN_MEMORY:
            self.service.unload()
        own_process = isinstance(config, TrainJob) and self._needs_own_process(config)
        runner.start(job, config, folder, own_process=own_process)
        self.watches[job].follow(folder)
        self.settings.put({f"last.{job}": str(folder)})
        return folder

    def _needs_own_process(self, job: TrainJob) -> bool:
        """Several devices are several processes, which this one cannot become."""
        return bool(self.settings.get("train.own-process")) or job.devices * job.num_nodes > 1

    def require_idle(self) -> None:
        """Raises JobBusy, saying what is running, while a job uses the models."""
        if self.runner.busy:
            raise JobBusy(f"{self.current_job()} is running", hint="Stop it, or wait until it is done.")

    def current_job(self, runner: JobRunner | None = None) -> str:
        """In words, what the one heavy job is doing; "" when there is none."""
        runner = runner or self.runner
        for name, watch in self.watches.items():
            if runner.busy and self.runner_of(name) is runner and watch.folder == runner.folder:
                _, account = watch.look()
                where = f" ({account.done} of {account.total} {account.unit})" if account.total else ""
                return f"{JOB_NAMES[name]} of {runner.folder.name}{where}" if runner.folder else JOB_NAMES[name]
        return "another job" if runner.busy else ""

    def stop(self, job: str) -> bool:
        """Ask a job to save and end. False if it is not running."""
        watch = self.watches[job]
        if watch.folder is None or not watch.active:
            return False
        JobFolder(watch.folder).request_stop()
        return True

    def pause(self, job: str) -> bool:
        """Pause a job, or resume a paused one. False if it is not running."""
        watch = self.watches[job]
        state, _ = watch.look()
        if watch.folder is None or state not in ACTIVE:
            return False
        folder = JobFolder(watch.folder)
        folder.request_resume() if state == "paused" else folder.request_pause()
        return True

    def close(self) -> None:
        """Before the program ends: the jobs save and stop."""
        for runner in (self.runner, self.downloader):
            if runner.busy:
                sys.stderr.write(f"Stopping {self.current_job(runner)}; it saves what it has.\n")
                runner.cancel()
        for runner in (self.runner, self.downloader):
            runner.join(_SAVE_S)

    @property
    def card(self) -> VRAMStatus | None:
        """The graphics card, as it was a few seconds ago."""
        return self._card.look()

    # What is where.

    @property
    def checkpoints_folder(self) -> Path | None:
        """The extra folder of models that was typed, if it is one."""
        text = self.settings.text("service.folder")
        try:
            return self.workspace.folder(text, "Checkpoints Folder") if text.strip() else None
        except StorageError:
            return None

    def checkpoints(self) -> list[Checkpoint]:
        """The models that can be chosen; looked up every few seconds."""
        folder = self.checkpoints_folder
        return self._cached(f"checkpoints {folder}", lambda: list_checkpoints(folder))

    def checkpoint(self) -> Checkpoint:
        """The chosen model. Raises CheckpointError."""
        folder = self.settings.text("service.checkpoint")
        if not folder:
            raise CheckpointError("no model is chosen", hint="Choose one in 1. Service.")
        return find_checkpoint(folder, self.checkpoints_folder)

    def tensors(self) -> Manifest:
        """The preprocessed songs that training would use. Raises TensorError, StorageError."""
        text = self.settings.text("train.tensors", TENSORS)
        return read_manifest(self.workspace.folder(text, "Tensors Directory"))

    def tensors_version(self) -> tuple[str, int]:
        """Changes when other tensors are chosen, or made."""
        text = self.settings.text("train.tensors", TENSORS)
        try:
            return text, (self.workspace.path(text, "Tensors Directory") / MANIFEST).stat().st_mtime_ns
        except (OSError, StorageError):
            return text, 0

    @property
    def adapter_kind(self) -> str:
        """The kind of adapter that is chosen in 4. Train."""
        return self.settings.text("training.adapter_type", ADAPTERS.names[0])

    @property
    def runs_folder(self) -> Path:
        """Where runs are written; the usual place while something unusable stands in the field."""
        try:
            return self.workspace.path(self.settings.text("train.out", RUNS), "Output Dir")
        except StorageError:
            return self.workspace.root / RUNS

    @property
    def generations_folder(self) -> Path:
        """Where music is written that was asked for."""
        return self.workspace.root / "listening"

    def free_run_folder(self, name: str) -> Path:
        """The first of ``name``, ``name-2`` ... that holds nothing."""
        number, folder = 1, self.runs_folder / name
        while folder.exists() and any(folder.iterdir()):
            number += 1
            folder = self.runs_folder / f"{name}-{number}"
        return folder

    def run_folders(self) -> list[Path]:
        """Folders of trainings that can be gone on with, the newest first; looked up every few seconds."""
        return self._cached("runs", lambda: _run_folders(self.runs_folder))

    def adapters(self) -> list[tuple[str, str]]:
        """What training has left, as (words, folder), the newest run first; looked up every few seconds."""
        return self._cached("adapters", lambda: _adapters(self.runs_folder))

    def clear_cache(self) -> None:
        """Look everything up anew: something was just added or removed."""
        self._cache.clear()

    def _cached(self, name: str, look: Callable[[], T]) -> T:
        when, found = self._cache.get(name, (-_LISTING_S, None))
        if found is None or time.monotonic() - when > _LISTING_S:
            found = look()
            self._cache[name] = (time.monotonic(), found)
        return cast(T, found)

    def runner_of(self, job: str) -> JobRunner:
        """Downloads have one of their own: they may go on while a model is trained."""
        return self.downloader if job == "download" else self.runner


def _run_folders(root: Path) -> list[Path]:
    folders = [path for path in root.iterdir() if JobFolder(path).exists] if root.is_dir() else []
    return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)


def _adapters(root: Path) -> list[tuple[str, str]]:
    """Final, best and checkpoints of each run below ``root``."""
    folders = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    found = []
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        run = RunFolder(folder)
        for place in (run.final, run.best, *reversed(run.saved())):
            if (place / ADAPTER).is_dir():
                found.append((f"{folder.name}: {place.name}", str(place / ADAPTER)))
    return found
