"""The jobs of the drill: small trainings and preprocessings, and what each of them leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from acestep.core.config import Config
from acestep.preprocessing.configs import PreprocessJob
from acestep.training.state.run_folder import RunFolder
from dev.drill.checks import contents, require_saved, require_songs
from tests.preprocessing.conftest import label
from tests.songs import write_song
from tests.training.runs import make_job, tensors_for

SAVE_EVERY = 5  # steps
_LENGTHS = [(24, 5), (17, 7), (30, 4), (21, 6)]
_SONGS_S = (1.0, 1.1, 1.0)
_SETTINGS: dict[str, Any] = {
    "max_epochs": 9,
    "save_every_n_steps": SAVE_EVERY,
    "auto_save_best_after": 1,
    "measure_every_n_epochs": 4,
    "keep_last_n_checkpoints": 2,
    "cfg_dropout_prob": 0.3,
    "nan_detection_max": 1,  # so that no step is taken without its songs, and the end is the same
}
_OWN: dict[str, dict[str, Any]] = {"lora": {"lora__dropout": 0.2, "ema_decay": 0.9}, "lokr": {"lokr__dropout": 0.2}}


@dataclass(frozen=True)
class Work:
    """One kind of job. ``make(out)`` describes it, to be done in a folder of its own."""

    name: str
    job: Literal["train", "preprocess"]
    make: Callable[[Path], Config]

    def folder(self, out: Path) -> Path:
        """The job's own."""
        return out if self.job == "train" else out / "_job"

    def saved(self, out: Path, wanted: dict[str, bytes]) -> int:
        """Steps of the newest checkpoint, or songs that are ready; all must be as they should."""
        return require_saved(out) if self.job == "train" else require_songs(out, wanted)

    def results(self, out: Path) -> dict[str, bytes]:
        """What must be the same whatever has happened on the way."""
        if self.job == "preprocess":
            found = {name: data for name, data in contents(out).items() if not name.startswith("_job/")}
            return {**found, "manifest.json": _without(found["manifest.json"], "created_at")}
        run = RunFolder(out)
        latest_checkpoint = run.latest_checkpoint()
        assert latest_checkpoint is not None
        folders = {"newest": latest_checkpoint, "best": run.best, "final": run.final}
        found = {f"{name}/{file}": data for name, folder in folders.items() for file, data in contents(folder).items()}
        counted = found.pop("newest/state/state.json")  # songs that were left out stay counted
        return {
            **found,
            "state": latest_checkpoint.name.encode() + _without(counted, "not_finite", "not_finite_in_a_row"),
        }


def works(folder: Path, checkpoint: Path) -> list[Work]:
    """Both kinds of training and both ways to preprocess; songs are made in ``folder``."""
    tensors = tensors_for(folder / "tensors", checkpoint, _LENGTHS)
    for number, seconds in enumerate(_SONGS_S):
        sample = write_song(folder / "songs" / f"song {number}.wav", seconds, number)
        label(sample, f"tune number {number}", "[Verse]\nla la la" if number else "")
    return [
        *(_training(kind, tensors, checkpoint) for kind in _OWN),
        *(_preprocessing(two_pass, folder / "songs", checkpoint) for two_pass in (False, True)),
    ]


def _training(kind: str, tensors: Path, checkpoint: Path) -> Work:
    settings = {**_SETTINGS, **_OWN[kind], "adapter_type": kind}
    return Work(kind, "train", lambda out: make_job(tensors, checkpoint, out, **settings))


def _preprocessing(two_pass: bool, samples: Path, checkpoint: Path) -> Work:
    def make(out: Path) -> Config:
        return PreprocessJob(
            source=samples, checkpoint=str(checkpoint), out=out, two_pass=two_pass, tag="zyxtag", device="cpu"
        )

    return Work("two passes" if two_pass else "one pass", "preprocess", make)


def _without(data: bytes, *names: str) -> bytes:
    """JSON with these keys, wherever they are, left out."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(item) for key, item in value.items() if key not in names}
        return [cleaned(item) for item in value] if isinstance(value, list) else value

    return json.dumps(cleaned(json.loads(data))).encode()
