"""Songs without a caption: what was decided about them, and describing them in this program."""

from __future__ import annotations

import json
import os.path
import urllib.request
from pathlib import Path
from typing import Literal

from acestep.captioning.api_keys import has_key
from acestep.captioning.backends import CAPTIONERS
from acestep.captioning.configs import CaptionJob
from acestep.core.errors import CaptionError, ConfigError
from acestep.core.paths import checkpoint_roots
from acestep.dataset.sample import Sample
from acestep.ui.trainer.app_state import AppState

Choice = Literal["describe", "captioner", "tag"]

CAPTIONER_URL = "http://127.0.0.1:7862"
START_CAPTIONER = "python launch.py --mode caption"
_DECISION = "dataset.without_caption"
_JOB_FOLDER = ".captioning"  # in the folder of the songs; the captioner and the command line use the same
_PROBE_S = 0.5


def without_caption(app: AppState) -> list[Sample]:
    """The songs that have no caption."""
    return [sample for sample in app.dataset.samples if not sample.labeled]


def decision(app: AppState) -> Choice | None:
    """What was decided about the songs without a caption. None if there are others since."""
    saved = app.settings.get(_DECISION)
    if not isinstance(saved, dict) or saved.get("choice") not in ("describe", "captioner", "tag"):
        return None
    decided = set(saved.get("songs") or [])
    return saved["choice"] if all(sample.audio_path in decided for sample in without_caption(app)) else None


def decide(app: AppState, choice: Choice) -> None:
    """Save a decision. Preprocessing includes songs without a caption if they are trained with the tag alone.

    Raises:
        ConfigError: there is no tag.
    """
    if choice == "tag" and not (app.dataset.dataset and app.dataset.dataset.metadata.custom_tag.strip()):
        raise ConfigError("there is no activation tag", hint="Enter one in Activation Tag first.")
    songs = [sample.audio_path for sample in without_caption(app)]
    app.settings.put({_DECISION: {"choice": choice, "songs": songs}})
    app.settings.push({"preprocess.include_unlabelled": choice == "tag"})


def captioner_name(app: AppState) -> str:
    """The captioner that can be used at once: the local one if its model is here, or a service with a key; or ""."""
    folder = CAPTIONERS["local"].model.rpartition("/")[2]
    if any((root / folder / "config.json").is_file() for root in checkpoint_roots(app.checkpoints_folder)):
        return "local"
    return next((entry.name for entry in CAPTIONERS if entry.is_online and has_key(entry)), "")


def captioner_needs() -> str:
    """What has to be there before songs can be described in this program."""
    keys = " or ".join(entry.key_variables[0] for entry in CAPTIONERS if entry.is_online and entry.key_variables)
    return (
        "Describing songs here needs the captioner model (python -m acestep download acestep-captioner, 22 GB) "
        f"or an API key in the environment variable {keys}."
    )


def describe_songs(app: AppState) -> None:
    """Start captioning the songs without a caption.

    Raises:
        CaptionError: there is no captioner, or the songs have no common folder.
        JobBusy, StorageError.
    """
    songs = [Path(sample.audio_path) for sample in without_caption(app)]
    name = captioner_name(app)
    if not name:
        raise CaptionError("no captioner is available", hint=captioner_needs())
    app.require_idle()
    folder = _common_folder(songs)
    config = CaptionJob(audio_dir=folder, captioner=name, checkpoints=app.checkpoints_folder, download=False)
    config.only = [song.relative_to(folder).as_posix() for song in songs]
    app.start("caption", config, folder / _JOB_FOLDER)
    decide(app, "describe")


def captioner_runs() -> bool:
    """Whether the captioner page answers at its usual address."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{CAPTIONER_URL}/health", timeout=_PROBE_S) as answer:
            return "captioning" in json.load(answer)
    except (OSError, ValueError):
        return False


def _common_folder(songs: list[Path]) -> Path:
    try:
        folder = Path(os.path.commonpath([song.parent for song in songs]))
    except ValueError:  # no songs, or on different drives
        folder = Path("/")
    if folder == folder.parent:
        raise CaptionError("the songs have no common folder", hint="Open the captioner for each folder.")
    return folder
