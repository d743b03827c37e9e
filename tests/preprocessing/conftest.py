"""Two short songs with labels, encoded once in each mode: most tests start from a copy of that."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from acestep.core.errors import JobCancelled
from acestep.core.events import Event
from acestep.dataset.scan import scan_folder
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.pipeline import preprocess
from tests.bad_files import song

TAG = "mystyle"


@dataclass
class Listener:
    """Takes what a job's Context takes; stops the work once ``stop_when`` says so of an event."""

    stop_when: Callable[[Event], bool] = lambda event: False
    events: list[Event] = field(default_factory=list)
    stopped: bool = False

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.stopped = self.stopped or self.stop_when(event)

    def stop_if_cancelled(self) -> None:
        if self.stopped:
            raise JobCancelled("stopped by the user")

    def said(self, kind: type[Event]) -> list[str]:
        return [str(event) for event in self.events if type(event) is kind]


@dataclass(frozen=True)
class Workshop:
    """A folder of songs, the checkpoint, and a way to preprocess."""

    songs: Path
    checkpoint: Path

    def job(self, out: Path, **settings: Any) -> PreprocessJob:
        settings = {"source": self.songs, "tag": TAG, **settings}
        return PreprocessJob(checkpoint=str(self.checkpoint), out=out, **settings)

    def run(self, out: Path, listener: Listener | None = None, **settings: Any) -> dict[str, Any]:
        found = scan_folder(self.songs)
        return preprocess(found.dataset, self.songs, self.job(out, **settings), listener or Listener())


def label(audio: Path, caption: str, lyrics: str = "") -> Path:
    audio.with_name(f"{audio.stem}.caption.txt").write_text(caption, encoding="utf-8")
    if lyrics:
        audio.with_name(f"{audio.stem}.lyrics.txt").write_text(lyrics, encoding="utf-8")
    return audio


def tensors(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.pt"))}


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    label(song(folder / "one.wav", 1.05), "a slow sine wave", "[Verse]\nla la la")
    label(song(folder / "sub" / "two.flac", 1.5, rate=22_050, channels=1), "a dark drone")
    return folder


@pytest.fixture(scope="session")
def standard(
    tmp_path_factory: pytest.TempPathFactory, songs: Path, tiny_checkpoint: Path
) -> tuple[Path, Any, Listener]:
    """Output folder, result and events of standard preprocessing. Not to be changed."""
    out, listener = tmp_path_factory.mktemp("encoded") / "standard", Listener()
    return out, Workshop(songs, tiny_checkpoint).run(out, listener), listener


@pytest.fixture
def workshop(songs: Path, tiny_checkpoint: Path, tmp_path: Path) -> Workshop:
    """A copy of the songs to change at will."""
    shutil.copytree(songs, tmp_path / "songs")
    return Workshop(tmp_path / "songs", tiny_checkpoint)


@pytest.fixture
def encoded(standard: tuple[Path, Any, Listener], tmp_path: Path) -> Path:
    """A copy of the finished output folder."""
    shutil.copytree(standard[0], tmp_path / "encoded")
    return tmp_path / "encoded"
