"""The state that all open pages of the captioner share: folder, settings, job."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS
from acestep.captioning.configs import CaptionJob
from acestep.core.config import assign, fields
from acestep.core.errors import ConfigError, DatasetError, JobBusy, StorageError
from acestep.core.job_runner import JobRunner
from acestep.core.registry import Registry
from acestep.core.untrusted import is_file
from acestep.ui.captioner import config_file
from acestep.ui.captioner.audio_folder import AudioFolder
from acestep.ui.gpu_status import GPUStatus
from acestep.ui.settings import Settings
from acestep.ui.watch import ACTIVE, Watch
from acestep.ui.workspace import Workspace

FORM = "caption"  # begins the keys of the saved values of CaptionJob
FOLDER = "folder"
LEFT_OUT = ("audio_dir", "only")  # set in the first tab
ENGINES: dict[str, Registry[Any]] = {"captioner": CAPTIONERS, "transcriber": TRANSCRIBERS}
JOB_FOLDER = ".captioning"  # in the folder of the songs; the command line uses the same
_SAVE_S = 20
_LOAD_SHARE = 0.2  # of the time may go into reading labels while a job runs


class AppState:
    """Created once per program; all pages and API functions use it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.settings = Settings(workspace.state_folder / "captioner.json")
        self.folder = AudioFolder()
        self.runner = JobRunner()
        self.watch = Watch(self.runner)
        self.gpu_status = GPUStatus()
        self.notes: list[str] = []  # about the config file that was loaded at start
        self._written, self._read_at, self._read_took_s = 0, 0.0, 0.0
        self._load_config()
        if self.settings.text(FOLDER):
            try:
                self.open(self.settings.text(FOLDER))
            except (DatasetError, StorageError) as error:
                self.notes.append(f"{error}")

    def open(self, text: str) -> Path:
        """Open the folder at the entered path, with the latest job in it.

        Raises:
            StorageError, DatasetError: no such folder, or no songs in it.
        """
        folder = self.workspace.folder(text, "Audio Folder")
        if self.folder.root != folder:
            self._require_idle()
        self.folder.open(folder)
        self.settings.put({FOLDER: text})
        if self.watch.folder != folder / JOB_FOLDER:
            self.watch.follow(folder / JOB_FOLDER)
        return folder

    def ready(self) -> Path:
        """The entered folder, scanned if necessary. Raises ConfigError, StorageError, DatasetError."""
        typed = self.settings.text(FOLDER)
        if not typed:
            raise ConfigError(["no folder is selected"], hint="Enter one in 1. Songs and scan it.")
        folder = self.workspace.folder(typed, "Audio Folder")
        return folder if self.folder.root == folder else self.open(typed)

    @property
    def active(self) -> bool:
        """Whether a job runs in the folder, in this program or in another one."""
        return self.watch.active

    def config(self) -> CaptionJob:
        """The job with the saved settings; invalid ones keep their defaults.

        Raises:
            ConfigError: no folder is selected.
        """
        if self.folder.root is None:
            raise ConfigError(["no folder is selected"], hint="Enter one in 1. Songs and scan it.")
        return self.config_for(self.folder.root)

    def config_for(self, folder: Path) -> CaptionJob:
        """The job with the saved settings for any folder."""
        config = CaptionJob(audio_dir=folder)
        for name in fields(CaptionJob):
            value = self.settings.get(f"{FORM}.{name}")
            if value is not None and name not in LEFT_OUT:
                try:
                    assign(config, name, None if value == "" and name in ("csv", "checkpoints") else value)
                except ConfigError:
                    continue
        return config

    def start(self, config: CaptionJob) -> None:
        """Start captioning the scanned folder. Raises JobBusy, ConfigError, StorageError."""
        self._require_idle()
        if config.captioner == config.transcriber == "none" and not config.measure:
            raise ConfigError(
                ["no captions, lyrics or measurements are selected"], hint="Select at least one in 2. Engine."
            )
        config.csv = self.workspace.path(str(config.csv), "CSV file") if config.csv else None
        folder = config.audio_dir / JOB_FOLDER
        self.runner.start("caption", config, folder)
        self.watch.follow(folder)

    def version(self) -> tuple[object, ...]:
        """Changes with the labels of the songs, in this program or in another one."""
        state, view = self.watch.read()
        labels = (len(view.saved), state in ACTIVE, self.folder.root)
        may_read = time.monotonic() - self._read_at > self._read_took_s / _LOAD_SHARE
        if hash(labels) != self._written and (may_read or state not in ACTIVE):
            start_s = time.monotonic()
            self.folder.refresh()
            self._written, self._read_at = hash(labels), time.monotonic()
            self._read_took_s = self._read_at - start_s
        return self.folder.version, state

    def failed(self) -> list[str]:
        """The songs that failed in the latest job."""
        _, view = self.watch.read()
        names = {entry.name for entry in self.folder.entries}
        return [item.item for item in view.skipped if item.item in names]

    def close(self) -> None:
        """Before the program exits: edits are saved, the job stops after the current song."""
        self.folder.autosave.flush()
        if self.runner.busy:
            sys.stderr.write("Stopping the captioner; finished songs are saved.\n")
            self.runner.cancel()
        self.runner.join(_SAVE_S)

    def save_config(self, text: str) -> Path:
        """Save the settings to the file at the entered path. Raises StorageError."""
        path = self.workspace.path(text, "Config File")
        config_file.write(path, {name: self.settings.get(name) for name in config_file.names()})
        self.settings.put({"config.digest": config_file.digest(path)})
        return path

    def load_config(self, text: str) -> list[str]:
        """Load settings from a file; returns what was ignored. Raises ConfigError, StorageError."""
        path = self.workspace.file(text, "Config File")
        values, ignored = config_file.read(path)
        self.settings.push({**values, "config.digest": config_file.digest(path)})
        return ignored

    def _load_config(self) -> None:
        """At start, load the default config file if it has changed since it was last loaded or saved."""
        path = self.workspace.root / config_file.NAME
        if not is_file(path) or config_file.digest(path) == self.settings.get("config.digest"):
            return
        try:
            ignored = self.load_config(str(path))
        except (ConfigError, StorageError) as error:
            self.notes.append(f"{path.name} is ignored: {error}")
        else:
            self.notes.append(f"Loaded the settings of {path.name}.")
            self.notes += [f"{path.name}: {line}" for line in ignored]

    def _require_idle(self) -> None:
        if self.runner.busy or self.watch.active:
            raise JobBusy("captioning is running", hint="Stop it, or wait until it has finished.")
