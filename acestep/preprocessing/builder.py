"""Entry points of preprocessing: the job ``preprocess``, and the class ``DatasetBuilder`` for other programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.core.config import parse
from acestep.core.errors import DatasetError
from acestep.core.events import Event
from acestep.core.jobs import Context
from acestep.core.untrusted import is_folder
from acestep.dataset.sample import Dataset
from acestep.dataset.scan import Problem, ScanResult, scan_folder
from acestep.dataset.store import read_dataset, write_dataset
from acestep.models.device import choose_device, choose_launched_device
from acestep.models.memory_limit import use_device
from acestep.models.process_group import ProcessGroup
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.multi_device import encode_launched_share
from acestep.preprocessing.pipeline import preprocess


def preprocess_job(config: PreprocessJob, context: Context) -> dict[str, Any]:
    """Scan or read ``config.source`` and encode its samples. Result and errors: see ``pipeline.preprocess``.

    Of several processes that a launcher started, only rank 0 has a result.
    """
    if context.launch.launcher:
        config = config.model_copy(update={"device": choose_launched_device(config.device, context.launch).value})
    processes = ProcessGroup.connect(context.launch)
    with processes.fail_together():
        if processes.is_main:
            return _preprocess(config, context, processes)
        encode_launched_share(config, context, processes)
        return {}


def _preprocess(config: PreprocessJob, context: Context, processes: ProcessGroup) -> dict[str, Any]:
    single_device = config.devices == 1  # with several devices, each worker process locks its own
    lock = choose_device(config.device).value if single_device else "cpu"
    with use_device(lock, "preprocessing", context):
        folder, source = context.folder, config.source
        if not is_folder(source):
            dataset = read_dataset(source)
            return preprocess(dataset, source.parent, config, context, folder=folder, processes=processes)
        scan = scan_folder(source, name=source.resolve().name)
        return preprocess(scan.dataset, source, config, context, scan.problems, folder=folder, processes=processes)


@dataclass(frozen=True, slots=True)
class _CallbackReporter:
    """Passes events to a callback, which cancels by raising JobCancelled."""

    on_event: Callable[[Event], None]

    def emit(self, event: Event) -> None:
        self.on_event(event)

    def stop_if_cancelled(self) -> None:
        """Does nothing; cancellation comes from the callback."""


def _ignore(event: Event) -> None:
    del event


class DatasetBuilder:
    """Builds a preprocessed dataset from a folder of audio files or a dataset file.

    Example::

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
        """Scan a folder for audio files and labels.

        Args:
            folder: the folder, searched recursively.
            options: keyword arguments of ``scan_folder``.

        Raises:
            DatasetError: the folder does not exist or has no usable audio file.
        """
        result = scan_folder(folder, **options)
        self.dataset, self.source, self._problems = result.dataset, folder, result.problems
        return result

    def load(self, path: Path) -> Dataset:
        """Read a dataset file (JSON). Raises DatasetError."""
        self.dataset, self.source, self._problems = read_dataset(path), path, []
        return self.dataset

    def save(self, path: Path) -> None:
        """Write the dataset file (JSON).

        Raises:
            DatasetError: neither ``scan`` nor ``load`` was called.
            DiskFull, NotWritable, StorageError: the file cannot be written.
        """
        write_dataset(path, self._loaded()[0])

    def preprocess(
        self, checkpoint: str, out: Path, *, on_event: Callable[[Event], None] = _ignore, **options: Any
    ) -> dict[str, Any]:
        """Encode all samples in one pass, with all models in memory.

        Args:
            checkpoint: name or folder of the base model to train.
            out: output folder for the tensors.
            on_event: called with each event. May raise JobCancelled to stop.
            options: further fields of ``PreprocessJob``.

        Returns:
            The result of ``pipeline.preprocess``.

        Raises:
            ConfigError: an option is unknown or invalid. For other errors see ``pipeline.preprocess``.
        """
        dataset, source = self._loaded()
        config = parse(PreprocessJob, {"source": source, "checkpoint": checkpoint, "out": out, **options})
        root = source if is_folder(source) else source.parent
        return preprocess(dataset, root, config, _CallbackReporter(on_event), self._problems)

    def preprocess_two_pass(
        self, checkpoint: str, out: Path, *, on_event: Callable[[Event], None] = _ignore, **options: Any
    ) -> dict[str, Any]:
        """Like ``preprocess``, with less memory: the models of pass 1 are freed before those of pass 2 are loaded."""
        return self.preprocess(checkpoint, out, on_event=on_event, **options, two_pass=True)

    def _loaded(self) -> tuple[Dataset, Path]:
        if self.dataset is None or self.source is None:
            raise DatasetError("no dataset is loaded", hint="Call scan() or load() first.")
        return self.dataset, self.source
