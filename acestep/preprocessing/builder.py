"""Preprocessing as a job of the program, and as a class for other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core.config import parse
from acestep.core.device_lock import lock_device
from acestep.core.errors import DatasetError
from acestep.core.events import Event
from acestep.core.jobs import Context
from acestep.dataset.sample import Dataset
from acestep.dataset.scan import Problem, ScanResult, scan_folder
from acestep.dataset.store import read_dataset, write_dataset
from acestep.models.device import choose_device
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.pipeline import preprocess


def preprocess_job(config: PreprocessJob, context: Context) -> dict[str, Any]:
    """Scan or read ``config.source`` and encode its songs. Result and errors: ``pipeline.preprocess``."""
    alone = config.devices == 1  # else those that share the work keep a card each
    with lock_device(choose_device(config.device).value if alone else "cpu", "preprocessing", context):
        folder = context.folder
        if not config.source.is_dir():
            return preprocess(read_dataset(config.source), config.source.parent, config, context, folder=folder)
        found = scan_folder(config.source, name=config.source.resolve().name)
        return preprocess(found.dataset, config.source, config, context, found.problems, folder=folder)


@dataclass(frozen=True, slots=True)
class _Listener:
    """A caller that only listens; it stops the work by raising JobCancelled."""

    on_event: Callable[[Event], None]

    def emit(self, event: Event) -> None:
        self.on_event(event)

    def stop_if_cancelled(self) -> None:
        """Never stops."""


def _ignore(event: Event) -> None:
    del event


class DatasetBuilder:
    """A data set from its songs to its tensors.

    builder = DatasetBuilder()
    builder.scan(Path("songs"), custom_tag="my style")
    builder.save(Path("datasets/mine.json"))
    builder.preprocess_two_pass("acestep-v15-turbo", Path("datasets/tensors"))
    """

    def __init__(self) -> None:
        self.dataset: Dataset | None = None
        self.source: Path | None = None
        self._problems: list[Problem] = []

    def scan(self, folder: Path, **options: Any) -> ScanResult:
        """Find the songs and labels of a folder; ``options`` are those of ``scan_folder``. Raises DatasetError."""
        found = scan_folder(folder, **options)
        self.dataset, self.source, self._problems = found.dataset, folder, found.problems
        return found

    def load(self, path: Path) -> Dataset:
        """Read a dataset JSON. Raises DatasetError."""
        self.dataset, self.source, self._problems = read_dataset(path), path, []
        return self.dataset

    def save(self, path: Path) -> None:
        """Write the dataset JSON. Raises DatasetError before a scan or load, DiskFull, NotWritable, StorageError."""
        write_dataset(path, self._loaded()[0])

    def preprocess(
        self, checkpoint: str, out: Path, *, on_event: Callable[[Event], None] = _ignore, **options: Any
    ) -> dict[str, Any]:
        """Encode all songs with every model in memory at once.

        Args:
            checkpoint: name or folder of the model that will be trained.
            out: folder for the tensors.
            on_event: told of progress; may raise JobCancelled to stop between two events.
            options: further fields of ``PreprocessJob``.

        Returns:
            What became of the songs (``pipeline.preprocess``).

        Raises:
            ConfigError: an option is unknown or wrong. Others: ``pipeline.preprocess``.
        """
        dataset, source = self._loaded()
        config = parse(PreprocessJob, {"source": source, "checkpoint": checkpoint, "out": out, **options})
        root = source if source.is_dir() else source.parent
        return preprocess(dataset, root, config, _Listener(on_event), self._problems)

    def preprocess_two_pass(
        self, checkpoint: str, out: Path, *, on_event: Callable[[Event], None] = _ignore, **options: Any
    ) -> dict[str, Any]:
        """The same files with less memory: the first pass's models are freed before the second's are loaded."""
        return self.preprocess(checkpoint, out, on_event=on_event, **options, two_pass=True)

    def _loaded(self) -> tuple[Dataset, Path]:
        if self.dataset is None or self.source is None:
            raise DatasetError("there is no dataset yet", hint="Call scan() or load() first.")
        return self.dataset, self.source
