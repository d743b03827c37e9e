"""The output folder of a run: which songs are ready in it, and the manifest that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acestep.core.files import remove_leftovers, require_space, storage_errors, write_bytes
from acestep.preprocessing.sample_sources import Song, up_to_date
from acestep.tensors.manifest import SampleDetails, list_tensor_files, sample_details, write_manifest
from acestep.tensors.record import TensorRecord, encode_record

INTERMEDIATES = "_tmp_pass1"


class Output:
    """The songs of a run in the dataset's order, and what of them is on the disk."""

    def __init__(self, folder: Path, *, metadata: dict[str, Any], preprocessing: dict[str, Any]) -> None:
        """``metadata`` and ``preprocessing`` are for the manifest (``write_manifest``)."""
        self.folder = folder
        self.songs: list[Song] = []
        self.ready: dict[str, SampleDetails] = {}  # by file name
        self._metadata, self._preprocessing = metadata, preprocessing

    @property
    def missing(self) -> list[Song]:
        return [song for song in self.songs if song.file not in self.ready]

    def prepare(self, num_bytes: int) -> None:
        """Make the folder. Raises DiskFull, NotWritable: better now than after the models are loaded."""
        require_space(self.folder, num_bytes)
        probe = self.folder / ".writable"
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
            for folder in (self.folder, self.folder / INTERMEDIATES):
                remove_leftovers(folder)

    def keep(self, song: Song, record: TensorRecord) -> Path:
        """Write a finished song and the manifest that now holds it. Raises DiskFull, NotWritable, StorageError."""
        data = encode_record(record)
        path = self.folder / song.file
        write_bytes(path, data)
        self.ready[song.file] = sample_details(song.file, record, data)
        self.write_manifest()
        return path

    def take(self, file: str) -> None:
        """A finished song that another process has written. Raises DiskFull, NotWritable, StorageError."""
        song = next(song for song in self.songs if song.file == file)
        if details := up_to_date(self.folder, song):
            self.ready[file] = details
            self.write_manifest()

    def write_manifest(self) -> None:
        """The manifest of what is ready. Raises DiskFull, NotWritable, StorageError."""
        ready = [self.ready[song.file] for song in self.songs if song.file in self.ready]
        write_manifest(self.folder, ready, metadata=self._metadata, preprocessing=self._preprocessing)

    def unused(self) -> list[str]:
        """Tensor files in the folder that the manifest does not hold."""
        return [path.name for path in list_tensor_files(self.folder) if path.name not in self.ready]

    def remove_intermediates(self) -> None:
        """Also those of songs that have left the dataset since pass 1. Raises NotWritable, StorageError."""
        with storage_errors(self.folder):
            for path in (self.folder / INTERMEDIATES).glob("*.tmp.pt"):
                path.unlink()
            if (self.folder / INTERMEDIATES).is_dir():
                (self.folder / INTERMEDIATES).rmdir()


def intermediate(folder: Path, song: Song) -> Path:
    """Where pass 1 of two leaves a song of that output folder for pass 2."""
    return folder / INTERMEDIATES / f"{Path(song.file).stem}.tmp.pt"
