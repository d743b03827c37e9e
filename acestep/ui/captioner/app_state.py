"""What all open pages of the captioner share: the songs, the settings, the job."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS
from acestep.captioning.configs import CaptionJob
from acestep.core.config import assign, fields
from acestep.core.errors import ConfigError, DatasetError, JobBusy, StorageError
from acestep.core.job_folder import JobFolder
from acestep.core.job_runner import JobRunner
from acestep.core.registry import Registry
from acestep.ui.captioner import config_file
from acestep.ui.captioner.audio_folder import AudioFolder
from acestep.ui.gpu_status import GPUStatus
from acestep.ui.settings import Settings
from acestep.ui.watch import ACTIVE, Watch
from acestep.ui.workspace import Workspace

FORM = "caption"  # begins the names of the kept values of CaptionJob
FOLDER = "folder"
LEFT_OUT = ("audio_dir", "only")  # of the form: the folder is chosen in the first tab
ENGINES: dict[str, Registry[Any]] = {"captioner": CAPTIONERS, "transcriber": TRANSCRIBERS}
JOB_FOLDER = ".captioning"  # in the folder of the songs; the command line uses the same
_SAVE_S = 20
_LOAD_SHARE = 0.2  # of the time that reading the labels of a large folder may take while a job runs


class AppState:
    """Made once in a program; every page works on it."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.settings = Settings(workspace.memory / "captioner.json")
        self.songs = AudioFolder()
        self.runner = JobRunner()
        self.watch = Watch(self.runner)
        self.card = GPUStatus()
        self.notes: list[str] = []  # what happened to the configuration when the program started
        self._written, self._read_at, self._read_took_s = 0, 0.0, 0.0
        self._load_config()
        if self.settings.text(FOLDER):
            try:
                self.open(self.settings.text(FOLDER))
            except (DatasetError, StorageError) as error:
                self.notes.append(f"{error}")

    def open(self, text: str) -> Path:
        """Show the songs of the folder that was typed, and the job that was done there last.

        Raises:
            StorageError, DatasetError: no such folder, or no songs in it.
        """
        folder = self.workspace.folder(text, "Audio Folder")
        if self.songs.root != folder:
            self._require_idle()
        self.songs.open(folder)
        self.settings.put({FOLDER: text})
        if self.watch.folder != folder / JOB_FOLDER:
            self.watch.follow(folder / JOB_FOLDER)
        return folder

    def ready(self) -> Path:
        """The folder that is typed now, scanned if it is not yet. Raises ConfigError, StorageError, DatasetError."""
        typed = self.settings.text(FOLDER)
        if not typed:
            raise ConfigError(["no folder is chosen"], hint="Choose one in 1. Songs and scan it.")
        folder = self.workspace.folder(typed, "Audio Folder")
        return folder if self.songs.root == folder else self.open(typed)

    @property
    def active(self) -> bool:
        """Whether songs are being captioned in that folder, by this program or by another one."""
        return self.watch.active

    def config(self) -> CaptionJob:
        """The job as the kept settings describe it; those that cannot be are left at their defaults.

        Raises:
            ConfigError: no folder is chosen.
        """
        if self.songs.root is None:
            raise ConfigError(["no folder is chosen"], hint="Choose one in 1. Songs and scan it.")
        return self.config_for(self.songs.root)

    def config_for(self, folder: Path) -> CaptionJob:
        """The kept settings for the songs of any folder."""
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
        """Begin to caption the scanned folder. Raises JobBusy, ConfigError, StorageError."""
        self._require_idle()
        if config.captioner == config.transcriber == "none" and not config.measure:
            raise ConfigError(["nothing is to be done"], hint="Choose in 2. Engine what to make.")
        config.csv = self.workspace.path(str(config.csv), "CSV file") if config.csv else None
        folder = config.audio_dir / JOB_FOLDER
        self.runner.start("caption", config, folder)
        self.watch.follow(folder)

    def stop(self) -> bool:
        """Ask the job to end after the song at hand. False if none is at work."""
        state, _ = self.watch.look()
        if self.watch.folder is None or state not in ACTIVE:
            return False
        JobFolder(self.watch.folder).request_stop()
        return True

    def version(self) -> tuple[object, ...]:
        """Changes with the labels of the songs, whoever writes them."""
        state, account = self.watch.look()
        news = (len(account.saved), state in ACTIVE, self.songs.root)
        rested = time.monotonic() - self._read_at > self._read_took_s / _LOAD_SHARE
        if hash(news) != self._written and (rested or state not in ACTIVE):
            began = time.monotonic()
            self.songs.refresh()
            self._written, self._read_at = hash(news), time.monotonic()
            self._read_took_s = self._read_at - began
        return self.songs.version, state

    def failed(self) -> list[str]:
        """The songs that the last job left out and that can be tried again."""
        _, account = self.watch.look()
        names = {entry.name for entry in self.songs.entries}
        return [item.item for item in account.left_out if item.item in names]

    def close(self) -> None:
        """Before the program ends: the job ends after the piece of work at hand."""
        if self.runner.busy:
            sys.stderr.write("Stopping the captioner; finished songs are saved.\n")
            self.runner.cancel()
        self.runner.join(_SAVE_S)

    def save_config(self, text: str) -> Path:
        """Write the settings into the file that was typed. Raises StorageError."""
        path = self.workspace.path(text, "Config File")
        config_file.write(path, {name: self.settings.get(name) for name in config_file.names()})
        self.settings.put({"config.digest": config_file.digest(path)})
        return path

    def load_config(self, text: str) -> list[str]:
        """Take the settings of a file over; gives what was not understood. Raises ConfigError, StorageError."""
        path = self.workspace.file(text, "Config File")
        values, ignored = config_file.read(path)
        self.settings.push({**values, "config.digest": config_file.digest(path)})
        return ignored

    def _load_config(self) -> None:
        """At the start: the file of the usual name, if it is not the one that was loaded or saved last."""
        path = self.workspace.root / config_file.NAME
        if not path.is_file() or config_file.digest(path) == self.settings.get("config.digest"):
            return
        try:
            ignored = self.load_config(str(path))
        except (ConfigError, StorageError) as error:
            self.notes.append(f"{path.name} is not used: {error}")
        else:
            self.notes.append(f"Settings of {path.name} are loaded.")
            self.notes += [f"{path.name}: {line}" for line in ignored]

    def _require_idle(self) -> None:
        if self.runner.busy or self.watch.active:
            raise JobBusy("songs are being captioned", hint="Stop that, or wait until it is done.")
