"""Which training runs can be resumed, from what, and why others cannot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from acestep.core.errors import AceStepError
from acestep.core.job_folder import JobFolder
from acestep.core.untrusted import is_folder
from acestep.models.checkpoint import find_checkpoint
from acestep.tensors.manifest import has_samples
from acestep.training.state.run_folder import ADAPTER, RunFolder, has_state
from acestep.ui.trainer.app_state import AppState


@dataclass(frozen=True, slots=True)
class RunToResume:
    """A run folder.

    Attributes:
        problem: why the run cannot be resumed; empty if it can.
        has_state: it resumes bit-exactly. Otherwise it holds adapter weights only.
    """

    folder: Path
    problem: str = ""
    has_state: bool = False

    @property
    def label(self) -> str:
        return f"{self.folder.name} ({self.problem})" if self.problem else self.folder.name


def runs_to_resume(app: AppState) -> list[RunToResume]:
    """All training runs, the newest first; looked up every few seconds."""
    return app.cached("runs to resume", lambda: [run_to_resume(app, folder) for folder in app.run_folders()])


def run_to_resume(app: AppState, folder: Path) -> RunToResume:
    """Whether the run in ``folder`` can be resumed."""
    try:
        sources = resume_choices(folder)
        problem = _problem(app, folder, nothing_saved=not sources)
    except AceStepError as error:
        return RunToResume(folder, str(error))
    return RunToResume(folder, problem, has_state=any(has_state(path) for path in RunFolder(folder).saved()))


def newest_to_resume(runs: Sequence[RunToResume]) -> RunToResume | None:
    """The newest run with a state that can be resumed, else the newest with weights, else the newest."""
    possible = [run for run in runs if not run.problem]
    return next((run for run in possible if run.has_state), next(iter([*possible, *runs]), None))


def resume_choices(folder: Path) -> list[tuple[str, str]]:
    """What a run can resume from, as (label, value): the latest state, then by step, best and final last."""
    run = RunFolder(folder)
    found = []
    latest = run.latest_checkpoint()
    if latest is not None:
        found.append((f"latest ({latest.name})", "auto"))
    for saved in reversed(run.saved()):
        found.append((_label(saved), str(saved)))
    for checkpoint in (run.best, run.final):
        if is_folder(checkpoint / ADAPTER):
            found.append((_label(checkpoint), str(checkpoint)))
    return found


def _problem(app: AppState, folder: Path, *, nothing_saved: bool) -> str:
    """Why a run cannot be resumed. Raises JobError if its description is missing or damaged."""
    if _is_running(app, folder):
        return "running"
    job, config = JobFolder(folder).read_job()
    if job != "train":
        return "not a training run"
    if nothing_saved:
        return "nothing was saved yet"
    try:
        find_checkpoint(str(config.get("checkpoint", "")))
    except AceStepError:
        return f"its model {config.get('checkpoint')} is missing"
    if not has_samples(Path(str(config.get("tensor_dir", "")))):
        return f"its tensors in {config.get('tensor_dir')} are missing"
    return ""


def _is_running(app: AppState, folder: Path) -> bool:
    """Whether a process runs in the folder. The lock of a job of this program is not probed while it starts."""
    return app.runner.busy if app.runner.folder == folder else JobFolder(folder).locked


def _label(checkpoint: Path) -> str:
    return checkpoint.name if has_state(checkpoint) else f"{checkpoint.name} (weights only, new optimizer state)"
