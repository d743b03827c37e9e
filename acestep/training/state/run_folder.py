"""The folder of a training run: its layout, its checkpoints, and what to resume from.

    checkpoints/epoch_<N>/            after epoch N; epoch_<N>_step_<S> in the middle of epoch N, after step S
        adapter/                      for other programs
        adapter_ema/                  the EMA of its weights, if enabled
        state/                        the training state, for a bit-exact resume
    checkpoints/newest.json           names the checkpoint that was saved last
    best/adapter/  final/adapter/     and adapter_ema/ beside each
    logs/  samples/
    training.json                     the settings of the run

Importing this module does not import torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core import renames
from acestep.core.errors import TrainingError
from acestep.core.files import read_versioned, recover_folder, remove_temporary_files, storage_errors, write_versioned
from acestep.core.paths import typed_path
from acestep.core.untrusted import exists, is_file, is_folder

ADAPTER, EMA_ADAPTER, STATE = "adapter", "adapter_ema", "state"
_NEWEST = "newest.json"
_SETTINGS = "training.json"
_NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?(?:_loss_.*)?")  # ace-lora-trainer appends the loss


@dataclass(frozen=True, slots=True)
class ResumeSource:
    """What a run resumes from. ``exact`` if it has a training state, otherwise it holds adapter weights only."""

    folder: Path
    exact: bool

    @property
    def epochs(self) -> int:
        """Completed epochs according to its name; 0 if the name has none."""
        names = [path.name for path in (self.folder, *self.folder.parents)[:3]]  # .../epoch_3/adapter/file
        found = next((found for name in names if (found := _NAME.fullmatch(name))), None)
        return 0 if found is None else int(found[1]) - (found[2] is not None)

    def starting_epoch(self, recorded_epochs: int, run: RunFolder, max_epochs: int) -> int:
        """The number of completed epochs of a run that starts from these adapter weights.

        Args:
            recorded_epochs: completed epochs according to the metadata of the adapter. Those of another run do not
                count.

        Raises:
            TrainingError: none is left of ``max_epochs``.
        """
        is_own = run.root.resolve() in self.folder.resolve().parents
        epochs = self.epochs or (recorded_epochs if is_own else 0)
        if epochs >= max_epochs:
            raise TrainingError(
                f"{self.folder} has been trained for {epochs} epochs already, max_epochs is {max_epochs}",
                hint="Raise max_epochs.",
            )
        return epochs


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run on disk."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def best(self) -> Path:
        return self.root / "best"

    @property
    def final(self) -> Path:
        return self.root / "final"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def occupied(self) -> bool:
        """Whether the folder holds checkpoints or adapters."""
        return any(is_folder(folder) and any(folder.iterdir()) for folder in (self.checkpoints, self.best, self.final))

    def require_empty(self) -> None:
        """Raises TrainingError if the folder already holds a run."""
        if self.occupied:
            raise TrainingError(
                f"{self.root} already holds a run",
                hint="Resume it (--resume auto), or choose another output folder.",
            )

    def recover(self) -> None:
        """Complete or roll back writes that a kill interrupted."""
        for leftover in [*self.checkpoints.glob(".*.old"), *self.root.glob(".*.old")]:
            recover_folder(leftover.with_name(leftover.name[1:].removesuffix(".old")))
        for leftover in [*self.checkpoints.glob(".*.tmp"), *self.root.glob(".best.tmp"), *self.root.glob(".final.tmp")]:
            renames.discard_folder(leftover)
        with storage_errors(self.root):
            for folder in (self.root, self.checkpoints, *self.samples.glob("*/")):
                remove_temporary_files(folder)

    def write_settings(self, settings: dict[str, Any]) -> None:
        write_versioned(self.root / _SETTINGS, "training", 1, {"settings": settings})

    def record_choices(self, automatic: dict[str, Any]) -> None:
        """Record, for information, what settings were resolved to."""
        content = {"settings": self.read_settings(), "automatic": automatic}
        write_versioned(self.root / _SETTINGS, "training", 1, content)

    def read_settings(self) -> dict[str, Any]:
        """The settings of the run; empty if none has started. Raises TrainingError."""
        if not is_file(self.root / _SETTINGS):
            return {}
        found = read_versioned(self.root / _SETTINGS, "training", 1, error=TrainingError).get("settings")
        return found if isinstance(found, dict) else {}

    def saved(self) -> list[Path]:
        """The checkpoints, in the order of their epochs and steps."""
        found = [
            (int(name[1]), name[2] is None, int(name[2] or 0), folder)
            for folder in (self.checkpoints.iterdir() if is_folder(self.checkpoints) else ())
            if (name := _NAME.fullmatch(folder.name)) and is_folder(folder)
        ]
        return [folder for *_, folder in sorted(found)]

    def latest_checkpoint(self) -> Path | None:
        """The checkpoint saved last. If that is not recorded, the furthest one, preferably with a training state."""
        saved = self.saved()
        if is_file(self.checkpoints / _NEWEST):
            name = read_versioned(self.checkpoints / _NEWEST, "newest", 1, error=TrainingError).get("checkpoint")
            recorded = self.checkpoints / str(name)
            if recorded in saved and has_state(recorded):
                return recorded
        return next(iter([*reversed([f for f in saved if has_state(f)]), *reversed(saved)]), None)

    def remove_older(self, than: Path, keep: int) -> list[str]:
        """Remove checkpoints up to ``than`` except for the last ``keep``; gives the names of the removed ones.

        Later checkpoints come from before the run was resumed and are kept. Raises StorageError.
        """
        saved = self.saved()
        before = [folder for folder in saved[: saved.index(than) + 1] if _is_ours(folder)]
        removed = before[:-keep]
        for folder in removed:
            with storage_errors(folder):
                remove_folder(folder)
        return [folder.name for folder in removed]

    def mark_latest(self, checkpoint: Path) -> None:
        write_versioned(self.checkpoints / _NEWEST, "newest", 1, {"checkpoint": checkpoint.name})


def checkpoint_name(epochs: int, step: int, *, ends_epoch: bool) -> str:
    """After ``epochs`` whole epochs: ``epoch_3``, or ``epoch_4_step_41`` in the middle of the fourth."""
    return f"epoch_{epochs}" if ends_epoch else f"epoch_{epochs + 1}_step_{step}"


def remove_folder(folder: Path) -> None:
    """Remove a checkpoint so that no partial one is ever visible. Raises OSError."""
    aside = folder.with_name(f".{folder.name}.tmp")  # after a kill, ``recover`` removes it
    renames.replace(folder, aside)
    renames.remove_folder(aside)


def _is_ours(checkpoint: Path) -> bool:
    """Whether it is unchanged: it has a training state, was not renamed, and holds no other files."""
    named = (found := _NAME.fullmatch(checkpoint.name)) and checkpoint.name == _own_name(found)
    return bool(named) and {path.name for path in checkpoint.iterdir()} - {EMA_ADAPTER} == {ADAPTER, STATE}


def _own_name(found: re.Match[str]) -> str:
    return f"epoch_{found[1]}" + (f"_step_{found[2]}" if found[2] else "")


def has_state(folder: Path) -> bool:
    return is_folder(folder / STATE)


def find_resume_source(resume: str | None, run: RunFolder) -> ResumeSource | None:
    """What to resume from; None to start a new run.

    Args:
        resume: None for a new run, "auto" to resume from the latest checkpoint of ``run``, or the path of a run, a
            checkpoint or an adapter, from this or another trainer.

    Raises:
        TrainingError: the folder already holds a run, or nothing is at the path.
    """
    if resume is None:
        run.require_empty()
        return None
    run.recover()
    if resume == "auto":
        return _of_run(run)
    path = typed_path(resume)
    if not exists(path):
        raise TrainingError(f"there is nothing to resume from at {path}", hint="Give a checkpoint folder, or auto.")
    if run.root.resolve() not in path.resolve().parents and path.resolve() != run.root.resolve():
        run.require_empty()
    if is_folder(path / "checkpoints"):
        if found := _of_run(RunFolder(path)):
            return found
        raise TrainingError(f"the run in {path} has saved nothing yet", hint="Start a new run in another folder.")
    if path.name == ADAPTER and has_state(path.parent):
        path = path.parent
    return ResumeSource(path, exact=has_state(path))


def _of_run(run: RunFolder) -> ResumeSource | None:
    latest_checkpoint = run.latest_checkpoint() or next(
        (folder for folder in (run.final, run.best) if is_folder(folder)), None
    )
    return None if latest_checkpoint is None else ResumeSource(latest_checkpoint, exact=has_state(latest_checkpoint))
