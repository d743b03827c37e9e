"""CSV tables of labels: any delimiter, any of the usual column names, rows matched to songs by file name."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.dataset.identity import same_name
from acestep.dataset.labels import Labels, Problem, field_name, plain_name, read_labels
from acestep.dataset.text_files import read_text

_DELIMITERS = (",", ";", "\t", "|")
_FILE_COLUMNS = ("path", "audiopath", "file", "filename", "name")  # the surest first
_MAX_NAMED = 20


@dataclass(frozen=True, slots=True)
class Row:
    """One song of a table: what may be its file, and what is said of it."""

    files: list[str]
    labels: Labels


def read_table(path: Path, problems: list[Problem]) -> list[Row]:
    """The rows of a CSV file; none, with the reason in ``problems``, if it is not about songs."""
    content = read_text(path, problems)
    if content is None:
        return []
    lines = content.lstrip("\ufeff")
    try:
        delimiter = max(_DELIMITERS, key=lambda mark: _num_known(lines, mark))
        rows = list(csv.DictReader(io.StringIO(lines, newline=""), delimiter=delimiter, skipinitialspace=True))
    except csv.Error as problem:
        problems.append(Problem(path, f"is not a table and was ignored: {problem}"))
        return []
    names = [name for name in (rows[0] if rows else {}) if name]
    columns = [name for kind in _FILE_COLUMNS for name in names if plain_name(name) == kind]
    if not columns:
        hint = "The first line needs a column 'file' with the names of the audio files."
        problems.append(Problem(path, "names no songs and was ignored", hint))
        return []
    return [_row(row, columns, path, problems) for row in rows]


def match_rows(path: Path, rows: list[Row], songs: Iterable[Path], problems: list[Problem]) -> dict[Path, Labels]:
    """The labels of each of ``songs`` that a row of the table ``path`` names; rows without a song are told.

    A row finds its song by the file's name, or by its name without suffix. Where several songs have it, the one
    whose folders agree best with the row's path is meant, then the one beside the table; otherwise none is.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for song in songs:
        for name in {same_name(song.name), same_name(song.stem)}:
            by_name[name].append(song)
    found: dict[Path, Labels] = {}
    unknown: list[str] = []
    for row in rows:
        matches = [_find(file, by_name, path.parent) for file in row.files]
        named = [match for match in matches if match]
        if not named:
            unknown += row.files[:1]
        else:
            before = found.get(named[0], Labels(path))
            found[named[0]] = Labels(path, before.values | row.labels.values, before.origins | row.labels.origins)
    if unknown:
        told = ", ".join(unknown[:_MAX_NAMED]) + (" ..." if len(unknown) > _MAX_NAMED else "")
        hint = "Write names as they are in the folder, with the sub-folder where two songs have one name."
        problems.append(
            Problem(path, f"{len(unknown)} of {len(rows)} rows name no song, or more than one: {told}", hint)
        )
    return found


def _num_known(lines: str, delimiter: str) -> int:
    """How many columns of the first line are known, if ``delimiter`` parts them."""
    header = next(csv.reader([lines.partition("\n")[0]], delimiter=delimiter), [])
    return sum(plain_name(name) in _FILE_COLUMNS or field_name(name) is not None for name in header)


def _row(row: Mapping[str | None, str | None], columns: list[str], path: Path, problems: list[Problem]) -> Row:
    cells = {name.strip(): value.strip() for name, value in row.items() if name and isinstance(value, str)}
    files = [cells[name.strip()] for name in columns if cells.get(name.strip())]
    return Row(files, read_labels({name: cell for name, cell in cells.items() if cell}, path, problems))


def _find(file: str, by_name: Mapping[str, list[Path]], folder: Path) -> Path | None:
    told = PurePosixPath(file.replace("\\", "/"))
    songs = by_name.get(same_name(told.name), [])
    if not songs and told.suffix.lower() in AUDIO_EXTENSIONS:  # converted since
        songs = by_name.get(same_name(told.stem), [])
    # A folder is moved with its table, so an absolute path need not agree; a relative one must.
    least = 0 if told.is_absolute() or PureWindowsPath(file).is_absolute() else len(told.parts) - 1
    best = max((_agreement(told, song) for song in songs), default=0)
    songs = [song for song in songs if _agreement(told, song) == best >= least]
    songs = songs if len(songs) == 1 else [song for song in songs if song.parent == folder]
    return songs[0] if len(songs) == 1 else None


def _agreement(told: PurePath, song: Path) -> int:
    """How many folders, counted from the file upwards, have the same name."""
    count = 0
    for one, other in zip(reversed(told.parts[:-1]), reversed(song.parts[:-1]), strict=False):
        if same_name(one) != same_name(other):
            break
        count += 1
    return count
