"""Label tables (CSV): any common delimiter and column names, rows matched to audio files by name."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.dataset.identity import filename_key
from acestep.dataset.labels import Labels, Problem, field_name, normalize_name, read_labels
from acestep.dataset.text_files import read_text

_DELIMITERS = (",", ";", "\t", "|")
_FILE_COLUMNS = ("path", "audiopath", "file", "filename", "name")  # most specific first
_MAX_LISTED = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the values of its file columns, and its labels."""

    files: list[str]
    labels: Labels


def read_table(path: Path, problems: list[Problem]) -> list[Row]:
    """Read the rows of a CSV file. Empty, with an entry in ``problems``, if it is not a label table."""
    content = read_text(path, problems)
    if content is None:
        return []
    table = content.lstrip("\ufeff")
    try:
        delimiter = max(_DELIMITERS, key=lambda mark: _num_known_columns(table, mark))
        rows = list(csv.DictReader(io.StringIO(table, newline=""), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        problems.append(Problem(path, f"is not a valid CSV file; ignored: {error}"))
        return []
    names = [name for name in (rows[0] if rows else {}) if name]
    columns = [name for kind in _FILE_COLUMNS for name in names if normalize_name(name) == kind]
    if not columns:
        hint = "Add a column 'file' with the names of the audio files."
        problems.append(Problem(path, "has no column for the audio file; ignored", hint))
        return []
    return [_row(row, columns, path, problems) for row in rows]


def match_rows(path: Path, rows: list[Row], audio_files: Iterable[Path], problems: list[Problem]) -> dict[Path, Labels]:
    """Labels of each audio file that a row of the table ``path`` refers to. Unmatched rows are added to ``problems``.

    Rows are matched by file name, with or without suffix. If several files have that name, the one whose parent folders
    match the path in the row best is used, then the one in the folder of the table, otherwise none.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for audio in audio_files:
        for name in {filename_key(audio.name), filename_key(audio.stem)}:
            by_name[name].append(audio)
    matched: dict[Path, Labels] = {}
    unmatched: list[str] = []
    for row in rows:
        candidates = [_match_file(file, by_name, path.parent) for file in row.files]
        matches = [match for match in candidates if match]
        if not matches:
            unmatched += row.files[:1]
        else:
            earlier = matched.get(matches[0], Labels(path))
            values, origins = earlier.values | row.labels.values, earlier.origins | row.labels.origins
            matched[matches[0]] = Labels(path, values, origins)
    if unmatched:
        listed = ", ".join(unmatched[:_MAX_LISTED]) + (" ..." if len(unmatched) > _MAX_LISTED else "")
        hint = "Use the file names in the folder, with the subfolder if two files have the same name."
        problems.append(
            Problem(path, f"{len(unmatched)} of {len(rows)} rows match no audio file, or several: {listed}", hint)
        )
    return matched


def _num_known_columns(table: str, delimiter: str) -> int:
    """The number of known columns in the first line, split at ``delimiter``."""
    header = next(csv.reader([table.partition("\n")[0]], delimiter=delimiter), [])
    return sum(normalize_name(name) in _FILE_COLUMNS or field_name(name) is not None for name in header)


def _row(row: Mapping[str | None, str | None], columns: list[str], path: Path, problems: list[Problem]) -> Row:
    cells = {name.strip(): value.strip() for name, value in row.items() if name and isinstance(value, str)}
    files = [cells[name.strip()] for name in columns if cells.get(name.strip())]
    return Row(files, read_labels({name: cell for name, cell in cells.items() if cell}, path, problems))


def _match_file(file: str, by_name: Mapping[str, list[Path]], folder: Path) -> Path | None:
    path = PurePosixPath(file.replace("\\", "/"))
    files = by_name.get(filename_key(path.name), [])
    if not files and path.suffix.lower() in AUDIO_EXTENSIONS:  # converted to another format since
        files = by_name.get(filename_key(path.stem), [])
    # Absolute paths need not match, since the folder may have been moved with its table. Relative paths must.
    required = 0 if path.is_absolute() or PureWindowsPath(file).is_absolute() else len(path.parts) - 1
    best = max((_num_matching_parents(path, audio) for audio in files), default=0)
    files = [audio for audio in files if _num_matching_parents(path, audio) == best >= required]
    files = files if len(files) == 1 else [audio for audio in files if audio.parent == folder]
    return files[0] if len(files) == 1 else None


def _num_matching_parents(path: PurePath, audio: Path) -> int:
    """The number of parent folders with equal names, counted from the file upwards."""
    count = 0
    for one, other in zip(reversed(path.parts[:-1]), reversed(audio.parts[:-1]), strict=False):
        if filename_key(one) != filename_key(other):
            break
        count += 1
    return count
