"""The output folder of preprocessing: tensor files, intermediate files and the manifest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from acestep.core.errors import TensorError
from acestep.core.files import remove_temporary_files, require_space, storage_errors, write_bytes
from acestep.preprocessing.sample_sources import SampleSource, up_to_date
from acestep.tensors.index import TensorIndex
from acestep.tensors.manifest import SampleDetails, list_tensor_files, sample_details, write_manifest
from acestep.tensors.record import TensorRecord, encode_record

INTERMEDIATES = "_tmp_pass1"


class OutputFolder:
    """Tracks which samples of a dataset have a tensor file, and keeps the manifest current.

    Attributes:
        samples: all samples to encode, in dataset order.
        ready: manifest entries of the samples that are encoded, by file name.
    """

    def __init__(self, folder: Path, *, metadata: dict[str, Any], preprocessing: dict[str, Any]) -> None:
        """``metadata`` and ``preprocessing`` are passed to ``write_manifest``."""
        self.folder = folder
        self.samples: list[SampleSource] = []
        self.ready: dict[str, SampleDetails] = {}
        self._metadata, self._preprocessing = metadata, preprocessing
        self._listed = 0  # samples in the manifest on disk

    @property
    def pending(self) -> list[SampleSource]:
        """The samples that are not encoded yet."""
        return [sample for sample in self.samples if sample.file not in self.ready]

    def prepare(self, num_bytes: int) -> None:
        """Create the folder and check that it can be written, before any model is loaded.

        Raises:
            DiskFull: less than ``num_bytes`` are free.
            NotWritable: the folder cannot be written.
        """
        require_space(self.folder, num_bytes)
        probe = self.folder / ".writable"
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
            for folder in (self.folder, self.folder / INTERMEDIATES):
                remove_temporary_files(folder)

    def save(self, sample: SampleSource, record: TensorRecord) -> Path:
        """Write the tensor file of a sample and update the manifest. Raises DiskFull, NotWritable, StorageError."""
        data = encode_record(record)
        path = self.folder / sample.file
        write_bytes(path, data)
        self._add(sample_details(sample.file, record, data))
        return path

    def add_existing(self, file: str) -> None:
        """Add a tensor file that a worker process has written. Raises DiskFull, NotWritable, StorageError."""
        sample = next(sample for sample in self.samples if sample.file == file)
        if details := up_to_date(self.folder, sample):
            self._add(details)

    def _add(self, details: SampleDetails) -> None:
        """Add a sample that is ready. A manifest of hundreds of samples is not written for each one of them."""
        self.ready[details.path] = details
        if len(self.ready) - self._listed >= len(self.ready) / 100:
            self.write_manifest()

    def close(self) -> None:
        """Write the manifest unless it is current. Raises DiskFull, NotWritable, StorageError."""
        if self._listed and self._listed < len(self.ready):
            self.write_manifest()

    def add_finished(self) -> None:
        """Add the tensor files that other processes have written. Raises DiskFull, NotWritable, StorageError."""
        for sample in self.pending:
            if details := up_to_date(self.folder, sample):
                self.ready[sample.file] = details
        self.write_manifest()

    def write_manifest(self) -> None:
        """Write the manifest of all samples that are ready. Raises DiskFull, NotWritable, StorageError."""
        ready = [self.ready[sample.file] for sample in self.samples if sample.file in self.ready]
        write_manifest(self.folder, ready, metadata=self._metadata, preprocessing=self._preprocessing)
        self._listed = len(ready)

    def write_index(self, report: Callable[[int, int], None]) -> None:
        """Write the index, so that training need not read the files. Calls ``report(done, total)``."""
        index = TensorIndex.read(self.folder)
        for number, name in enumerate(self.ready, start=1):
            with suppress(TensorError):  # training reports it
                index.facts(name)
            report(number, len(self.ready))
        index.write()

    def unused(self) -> list[str]:
        """Names of tensor files that are not in the manifest."""
        return [path.name for path in list_tensor_files(self.folder) if path.name not in self.ready]

    def remove_intermediates(self) -> None:
        """Delete all intermediate files, including those of removed samples. Raises NotWritable, StorageError."""
        with storage_errors(self.folder):
            for path in (self.folder / INTERMEDIATES).glob("*.tmp.pt"):
                path.unlink()
            if (self.folder / INTERMEDIATES).is_dir():
                (self.folder / INTERMEDIATES).rmdir()


def intermediate_path(folder: Path, sample: SampleSource) -> Path:
    """The file in output folder ``folder`` that passes the features of a sample from pass 1 to pass 2."""
    return folder / INTERMEDIATES / f"{Path(sample.file).stem}.tmp.pt"
