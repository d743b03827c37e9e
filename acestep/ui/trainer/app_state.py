"""The state that all open pages of the trainer share: dataset, settings, jobs, loaded models."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config
from acestep.core.errors import AceStepError, CheckpointError, JobBusy, StorageError
from acestep.core.events import Failed
from acestep.core.job_folder import JobFolder
from acestep.core.job_runner import JobRunner
from acestep.core.jobs import check_job
from acestep.core.paths import is_network_path
from acestep.core.untrusted import exists, is_folder
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
from acestep.ui.watch import Watch
from acestep.ui.workspace import Workspace

T = TypeVar("T")

JOB_NAMES = {
    "preprocess": "preprocessing",
    "train": "training",
    "generate": "generation",
    "compare": "generation",
    "estimate": "sensitivity analysis",
    "caption": "captioning",
    "merge": "merging",
    "download": "download",
}
_LOADS_MODELS = ("preprocess", "train", "estimate", "caption")  # these load their own models
RUNS, TENSORS = "lora_output", str(PreprocessJob.model_fields["out"].default)  # default folders
_SAVE_S = 60  # how long a job may take to save when the program exits
_LISTING_S = 3.0


class AppState:
    """Created once per program; all pages and API functions use it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace, self.service = workspace, SERVICE
        self.settings = Settings(workspace.state_folder / "trainer.json")
        self.dataset = EditableDataset(workspace.state_folder / "dataset.json")
        self.runner, self.downloader = JobRunner(), JobRunner()
        self.watches = {name: Watch(self.runner_of(name)) for name in JOB_NAMES}
        for name, watch in self.watches.items():
            folder = self.settings.text(f"last.{name}")
            watch.follow(Path(folder) if folder and not is_network_path(folder) else None)
        self.rejected: Failed | None = None  # why the last training run was not started
        self._gpu_status = GPUStatus()
        self._cache: dict[str, tuple[float, Any]] = {}  # key -> (time of the lookup, result)
        self._manifest: tuple[object, Manifest] | None = None  # of the selected tensors, with their version

    def start(self, job: str, config: Config, folder: Path) -> Path:
        """Start a job in ``folder``.

        Raises:
            JobBusy: names the running job.
            StorageError: the folder cannot be written.
            AceStepError: the job cannot succeed (``check_job``); the folder is not created.
        """
        runner = self.runner_of(job)
        if runner.busy:
            raise JobBusy(f"{self.current_job(runner)} is running", hint="Stop it, or wait until it has finished.")
        self._check(job, config)
        if job in _LOADS_MODELS:
            self.service.unload()
        own_process = isinstance(config, TrainJob) and self._needs_separate_process(config)
        runner.start(job, config, folder, own_process=own_process)
        self.watches[job].follow(folder)
        self.settings.put({f"last.{job}": str(folder)})
        self.clear_cache()
        return folder

    def _check(self, job: str, config: Config) -> None:
        try:
            check_job(job, config)
        except AceStepError as error:
            if job == "train":
                self.rejected = Failed(error=error.code, message=str(error), hint=error.hint, subject=error.subject)
            raise
        if job == "train":
            self.rejected = None

    def _needs_separate_process(self, job: TrainJob) -> bool:
        """Several devices need several processes."""
        return bool(self.settings.get("train.own-process")) or job.devices > 1

    def require_idle(self) -> None:
        """Raises JobBusy, which names the running job, while a job uses the models."""
        if self.runner.busy:
            raise JobBusy(f"{self.current_job()} is running", hint="Stop it, or wait until it has finished.")

    def current_job(self, runner: JobRunner | None = None) -> str:
        """Describes the running job, for example "training of my_lora (4 of 10 steps)"; "" when there is none."""
        runner = runner or self.runner
        for name, watch in self.watches.items():
            if runner.busy and self.runner_of(name) is runner and watch.folder == runner.folder:
                _, view = watch.read()
                where = f" ({view.done} of {view.total} {view.unit})" if view.total else ""
                return f"{JOB_NAMES[name]} of {runner.folder.name}{where}" if runner.folder else JOB_NAMES[name]
        return "another job" if runner.busy else ""

    def blocked_by(self, job: str) -> str:
        """Describes the other job that must end before ``job`` can start, "" if none runs."""
        runner = self.runner_of(job)
        return self.current_job(runner) if runner.busy and not self.watches[job].active else ""

    def close(self) -> None:
        """Before the program exits: edits are saved, jobs save and stop."""
        self.dataset.close()
        for runner in (self.runner, self.downloader):
            if runner.busy:
                sys.stderr.write(f"Stopping {self.current_job(runner)}; it saves its progress.\n")
                runner.cancel()
        for runner in (self.runner, self.downloader):
            runner.join(_SAVE_S)

    @property
    def gpu(self) -> VRAMStatus | None:
        """The GPU and its memory, read every few seconds; None without one."""
        return self._gpu_status.read()

    @property
    def checkpoints_folder(self) -> Path | None:
        """The additional folder of models, if the field holds an existing folder."""
        text = self.settings.text("service.folder")
        try:
            return self.workspace.folder(text, "Checkpoints Folder") if text.strip() else None
        except StorageError:
            return None

    def checkpoints(self) -> list[Checkpoint]:
        """The base models that can be selected; looked up every few seconds."""
        folder = self.checkpoints_folder
        return self.cached(f"checkpoints {folder}", lambda: self._list_checkpoints(folder))

    def _list_checkpoints(self, folder: Path | None) -> list[Checkpoint]:
        """Those that ``list_checkpoints`` finds, and those in the workspace, where merged models are written."""
        found = {model.name: model for model in list_checkpoints(self.workspace.root)}
        found |= {model.name: model for model in list_checkpoints(folder)}
        return [found[name] for name in sorted(found)]

    def checkpoint(self) -> Checkpoint:
        """The selected base model. Raises CheckpointError."""
        folder = self.settings.text("service.checkpoint")
        if not folder or is_network_path(folder):
            raise CheckpointError("no model is selected", hint="Select one in 1. Service.")
        return find_checkpoint(folder, self.checkpoints_folder)

    def tensors(self) -> Manifest:
        """The manifest of the tensors that training would use. Raises TensorError, StorageError."""
        text, version = self.settings.text("train.tensors", TENSORS), self.tensors_version()
        if self._manifest is None or self._manifest[0] != version:
            self._manifest = version, read_manifest(self.workspace.folder(text, "Tensors Directory"))
        return self._manifest[1]

    def tensors_version(self) -> tuple[object, ...]:
        """Changes when other tensors are selected, written or removed."""
        text = self.settings.text("train.tensors", TENSORS)
        try:
            folder = self.workspace.path(text, "Tensors Directory")
        except StorageError:
            return (text,)
        return text, *(_modified(path) for path in (folder, folder / MANIFEST))

    @property
    def adapter_kind(self) -> str:
        """The kind of adapter that is selected in 4. Train."""
        return self.settings.text("training.adapter_type", ADAPTERS.names[0])

    @property
    def runs_folder(self) -> Path:
        """Where runs are written; the default folder while the field holds an invalid path."""
        try:
            return self.workspace.path(self.settings.text("train.out", RUNS), "Output Dir")
        except StorageError:
            return self.workspace.root / RUNS

    @property
    def generations_folder(self) -> Path:
        """Where generated audio is written."""
        return self.workspace.root / "listening"

    def free_run_folder(self, name: str) -> Path:
        """The first of ``name``, ``name-2`` ... that does not exist or is empty."""
        number, folder = 1, self.runs_folder / name
        while exists(folder) and any(folder.iterdir()):
            number += 1
            folder = self.runs_folder / f"{name}-{number}"
        return folder

    def run_folders(self) -> list[Path]:
        """Folders of training runs, the newest first; looked up every few seconds."""
        return self.cached("runs", lambda: _run_folders(self.runs_folder))

    def adapters(self) -> list[tuple[str, str]]:
        """Adapters of the runs, as (label, folder), the newest run first; looked up every few seconds."""
        return self.cached("adapters", lambda: _adapters(self.runs_folder))

    def was_deleted(self, adapter: str) -> bool:
        """Whether it is the path of an adapter of the runs that no longer exists; typed paths are left alone."""
        return self.runs_folder in Path(adapter).parents and not exists(Path(adapter))

    def clear_cache(self) -> None:
        """Look up folders again after one was added or removed."""
        self._cache.clear()
        self._manifest = None

    def cached(self, name: str, read: Callable[[], T]) -> T:
        """The result of ``read``, which is called again after a few seconds or ``clear_cache``."""
        when, found = self._cache.get(name, (-_LISTING_S, None))
        if found is None or time.monotonic() - when > _LISTING_S:
            found = read()
            self._cache[name] = (time.monotonic(), found)
        return cast(T, found)

    def runner_of(self, job: str) -> JobRunner:
        """Downloads have a separate runner: they may run during training."""
        return self.downloader if job == "download" else self.runner


def _modified(path: Path) -> int:
    """The modification time of a file or folder, 0 if there is none."""
    try:
        return path.stat().st_mtime_ns
    except (OSError, ValueError):
        return 0


def _run_folders(root: Path) -> list[Path]:
    folders = [path for path in root.iterdir() if JobFolder(path).exists] if is_folder(root) else []
    return sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True)


def _adapters(root: Path) -> list[tuple[str, str]]:
    """The final and best adapters and the checkpoints of each run in ``root``."""
    folders = [path for path in root.iterdir() if is_folder(path)] if is_folder(root) else []
    found = []
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        run = RunFolder(folder)
        for place in (run.final, run.best, *reversed(run.saved())):
            if is_folder(place / ADAPTER):
                found.append((f"{folder.name}: {place.name}", str(place / ADAPTER)))
    return found
