"""Export the labels of a folder as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from acestep.captioning.configs import CaptionJob
from acestep.core.files import write_text
from acestep.dataset.scan import scan_folder

_COLUMNS = ["filename", "path", "caption", "bpm", "keyscale", "timesignature", "duration", "genre", "language"]


def write_table(config: CaptionJob) -> Path:
    """Write the labels of all songs, with lyrics if a transcriber is set. Returns the path.

    Raises:
        DatasetError, DiskFull, NotWritable, StorageError.
    """
    path = (config.csv or Path("captions.csv")).expanduser()
    columns = _COLUMNS + (["lyrics"] if config.transcriber != "none" else [])
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for sample in scan_folder(config.audio_dir).dataset.samples:
        writer.writerow({**sample.model_dump(), "path": sample.audio_path, "bpm": sample.bpm or ""})
    write_text(path, text.getvalue())
    return path
