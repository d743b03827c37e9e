"""Fixtures: two short labeled audio files, encoded once in standard mode. Most tests start from a copy."""

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
    """A reporter that records events, and cancels after the first event for which ``stop_when`` is true."""

    stop_when: Callable[[Event], bool] = lambda event: False
    events: list[Event] = field(default_factory=list)
    stopped: bool = False

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self.stopped = self.stopped or self.stop_when(event)

    def stop_if_cancelled(self) -> None:
        if self.stopped:
            raise JobCancelled("stopped by the user")

    def messages(self, kind: type[Event]) -> list[str]:
        return [str(event) for event in self.events if type(event) is kind]


@dataclass(frozen=True)
class Preprocessor:
    """Preprocesses ``audio_dir`` with the base model ``checkpoint``."""

    audio_dir: Path
    checkpoint: Path

    def job(self, out: Path, **settings: Any) -> PreprocessJob:
        settings = {"source": self.audio_dir, "tag": TAG, **settings}
        return PreprocessJob(checkpoint=str(self.checkpoint), out=out, **settings)

    def run(self, out: Path, listener: Listener | None = None, **settings: Any) -> dict[str, Any]:
        dataset = scan_folder(self.audio_dir).dataset
        return preprocess(dataset, self.audio_dir, self.job(out, **settings), listener or Listener())


def label(audio: Path, caption: str, lyrics: str = "") -> Path:
    audio.with_name(f"{audio.stem}.caption.txt").write_text(caption, encoding="utf-8")
    if lyrics:
        audio.with_name(f"{audio.stem}.lyrics.txt").write_text(lyrics, encoding="utf-8")
    return audio


def tensors(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.pt"))}


@pytest.fixture(scope="session")
def audio_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    label(song(folder / "one.wav", 1.05), "a slow sine wave", "[Verse]\nla la la")
    label(song(folder / "sub" / "two.flac", 1.5, rate=22_050, channels=1), "a dark drone")
    return folder


@pytest.fixture(scope="session")
def standard(
    tmp_path_factory: pytest.TempPathFactory, audio_dir: Path, tiny_checkpoint: Path
) -> tuple[Path, Any, Listener]:
    """Output folder, result and events of standard preprocessing. Read only."""
    out, listener = tmp_path_factory.mktemp("encoded") / "standard", Listener()
    return out, Preprocessor(audio_dir, tiny_checkpoint).run(out, listener), listener


@pytest.fixture
def preprocessor(audio_dir: Path, tiny_checkpoint: Path, tmp_path: Path) -> Preprocessor:
    """A preprocessor with its own copy of the audio files."""
    shutil.copytree(audio_dir, tmp_path / "songs")
    return Preprocessor(tmp_path / "songs", tiny_checkpoint)


@pytest.fixture
def encoded(standard: tuple[Path, Any, Listener], tmp_path: Path) -> Path:
    """A copy of the output folder of standard preprocessing."""
    shutil.copytree(standard[0], tmp_path / "encoded")
    return tmp_path / "encoded"
