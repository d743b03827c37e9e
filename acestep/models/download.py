"""Download models into the checkpoints folder. An unfinished model stays in ``.NAME.partial`` until it is verified."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import httpx2
from filelock import FileLock, Timeout
from huggingface_hub import is_offline_mode

from acestep.core import renames
from acestep.core.errors import CheckpointError, DownloadError, JobBusy, JobCancelled
from acestep.core.events import Event, LogMessage, PhaseStarted, Progressed, Saved
from acestep.core.files import require_space, storage_errors
from acestep.models.catalog import Model, check_folder, is_present, with_needs
from acestep.models.fetch import STOPPED, Stop, fetch, is_verified, size_of
from acestep.models.file_names import is_safe, require_distinct, require_inside
from acestep.models.hubs import Hub, HuggingFace, ModelScope, RemoteFile, reachable

__all__ = ["download", "is_present"]

Report = Callable[[Event], None]

# The files of a model. Python files of a repository are never downloaded.
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "silence_latent.pt", "LICENSE*")
_REPORT_EVERY_S = 0.5


def download(
    names: Iterable[str],
    root: Path,
    source: Literal["auto", "huggingface", "modelscope"] = "auto",
    token: str | None = None,
    on_progress: Report = lambda event: None,
    should_stop: Stop = lambda: False,
) -> list[Path]:
    """Download models and the models they need into ``root``, skipping complete ones. Returns their folders.

    An interrupted download resumes.

    Args:
        names: names in the catalog.
        source: ``auto`` uses Hugging Face if it answers, else ModelScope, and falls back to the other one.
            A named source is used alone.
        token: for Hugging Face only.

    Raises:
        DownloadError: with the reason of each source.
        UnknownName, DiskFull, NotWritable.
        JobBusy: another program downloads the same model.
        JobCancelled: ``should_stop`` returned True; partial files stay.
    """
    models = with_needs(names)
    missing = [model for model in models if not is_present(model.name, root)]
    for model in models:
        if model not in missing:
            on_progress(LogMessage(message=f"{model.name} is already there"))
    if missing:
        hubs = _hubs(source, token, on_progress)
        for model in missing:
            _from_any(hubs, model, root, on_progress, should_stop)
    return [root / model.name for model in models]


def _hubs(source: str, token: str | None, report: Report) -> list[Hub]:
    if is_offline_mode():
        raise DownloadError("HF_HUB_OFFLINE forbids downloads", hint="Unset it and restart to download models.")
    if source == "huggingface":
        return [HuggingFace(token)]
    if source == "modelscope":
        return [ModelScope()]
    first: Hub = HuggingFace(token)
    if reachable(first):
        report(PhaseStarted(phase=f"Downloading from {first.name}: it answers"))
        return [first, ModelScope()]
    report(PhaseStarted(phase=f"Downloading from ModelScope: {first.name} does not answer"))
    return [ModelScope(), first]


def _from_any(hubs: list[Hub], model: Model, root: Path, report: Report, stop: Stop) -> None:
    lock = FileLock(root / f".{model.name}.lock")
    reasons: list[DownloadError] = []
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise JobBusy(f"another program is downloading {model.name}", hint="Wait until it finishes.") from None
    try:
        for hub in hubs:
            try:
                _from_hub(hub, model, root, report, stop)
            except DownloadError as error:
                report(LogMessage(message=f"{model.name} from {hub.name}: {error}", warning=True))
                reasons.append(error)
            else:
                return report(Saved(path=str(root / model.name), role="model"))
    finally:
        lock.release()
    details = "; ".join(f"{hub.name}: {reason}" for hub, reason in zip(hubs, reasons, strict=True))
    hints = dict.fromkeys(reason.hint for reason in reasons if reason.hint)
    raise DownloadError(f"{model.name} could not be downloaded. {details}", hint=" ".join(hints))


def _from_hub(hub: Hub, model: Model, root: Path, report: Report, stop: Stop) -> None:
    """Download and verify each file in the partial folder, check the model, and move it to ``root``."""
    files = _wanted(hub.list_files(model.repo), model.subfolder, report)
    if not files:
        raise DownloadError(f"{model.repo} has no {model.subfolder or 'model'}")
    target, staging = root / model.name, root / f".{model.name}.partial"
    _require_no_links(files, staging, target)
    missing = [file for file in files if not is_verified(file, target / file.path)]
    require_space(root, sum(file.size - _bytes_present(file, staging) for file in missing))
    progress = _Progress(report, model.name, total=sum(file.size for file in files))
    progress.done = sum(file.size for file in files if file not in missing)
    with httpx2.Client(headers=hub.headers) as client:
        for file in missing:
            if stop():
                raise JobCancelled(STOPPED)
            if not is_verified(file, staging / file.path):
                fetch(client, file, staging / file.path, partial(progress.of_file, file), stop)
            progress.finish(file)
    _move_into_place(model, missing, staging, target)


def _wanted(files: list[RemoteFile], subfolder: str, report: Report) -> list[RemoteFile]:
    """The files of a model, with paths relative to its folder. Unsafe names are skipped with a warning.

    Raises:
        DownloadError: two names are the same file on some file system.
    """
    prefix = f"{subfolder}/" if subfolder else ""
    inside = [replace(f, path=f.path.removeprefix(prefix)) for f in files if f.path.startswith(prefix)]
    wanted = [file for file in inside if _is_model_file(file.path.rpartition("/")[2])]
    for file in wanted:
        if not is_safe(file.path):
            report(LogMessage(message=f"skipped an unsafe file name: {file.path!r}"[:200], warning=True))
    safe = [file for file in wanted if is_safe(file.path)]
    require_distinct(file.path for file in safe)
    return safe


def _require_no_links(files: list[RemoteFile], staging: Path, target: Path) -> None:
    """Raise DownloadError if a link in one of the folders leads a write outside."""
    for file in files:
        path = staging / file.path
        for written in (path, path.with_name(path.name + ".part")):
            require_inside(staging, written)
        require_inside(target, (target / file.path).parent)  # a link at the place of the file itself is replaced


def _is_model_file(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _WANTED)


def _bytes_present(file: RemoteFile, staging: Path) -> int:
    path = staging / file.path
    return min(file.size, max(size_of(path), size_of(path.with_name(path.name + ".part"))))


def _move_into_place(model: Model, fetched: list[RemoteFile], staging: Path, target: Path) -> None:
    """Move the partial folder to ``target``, or add its files to an incomplete ``target``.

    Raises:
        DownloadError: the published files are not a complete model.
    """
    wanted = {staging / file.path for file in fetched}
    with storage_errors(target):
        for path in list(staging.rglob("*")):
            if path.is_file() and path not in wanted:
                path.unlink()  # from an earlier attempt or an earlier commit of the repository
        if target.exists():
            for file in fetched:
                (target / file.path).parent.mkdir(parents=True, exist_ok=True)
                renames.replace(staging / file.path, target / file.path)
            renames.discard_folder(staging)
        try:
            check_folder(model, target if target.exists() else staging)
        except CheckpointError as error:
            raise DownloadError(f"the published files are not a complete model: {error}") from None
        if not target.exists():
            renames.replace(staging, target)


class _Progress:
    """Reports the progress of a model in whole MiB, at most twice a second."""

    def __init__(self, report: Report, name: str, total: int) -> None:
        self.done, self._total, self._report, self._name, self._reported_at = 0, total, report, name, 0.0

    def of_file(self, file: RemoteFile, num_bytes: int) -> None:
        if time.monotonic() - self._reported_at >= _REPORT_EVERY_S:
            self._emit(self.done + num_bytes, file)

    def finish(self, file: RemoteFile) -> None:
        self.done += file.size
        self._emit(self.done, file)

    def _emit(self, num_bytes: int, file: RemoteFile) -> None:
        self._reported_at = time.monotonic()
        note = f"MiB of {self._name}: {file.path}"
        self._report(Progressed(done=num_bytes >> 20, total=self._total >> 20, note=note))
