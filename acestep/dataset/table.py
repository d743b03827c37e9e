"""Label tables: rows matched to audio files by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any

from acestep.audio.files import AUDIO_EXTENSIONS
from acestep.dataset.identity import filename_key
from acestep.dataset.labels import Labels, Problem, normalize_name, read_labels
from acestep.dataset.table_rows import FILE_COLUMNS, open_table

_MAX_LISTED = 20


def read_table(path: Path, audio_files: Iterable[Path], problems: list[Problem]) -> dict[Path, Labels]:
    """Labels of each audio file that a row of a table refers to. Other rows are added to ``problems``.

    Rows are matched by file name, with or without suffix. If several files have that name, the one whose parent folders
    match the path in the row best is used, then the one in the folder of the table, otherwise none.
    """
    by_name: dict[str, list[Path]] = defaultdict(list)
    for audio in audio_files:
        for name in {filename_key(audio.name), filename_key(audio.stem)}:
            by_name[name].append(audio)
    matched: dict[Path, Labels] = {}
    folder = path.parent
    unmatched: list[str] = []
    num_rows = num_unmatched = 0
    with open_table(path, problems) as table:
        columns = [name for kind in FILE_COLUMNS for name in table.names if normalize_name(name) == kind]
        if not columns:
            hint = "Add a column 'file' with the names of the audio files."
            problems.append(Problem(path, "has no column for the audio file; ignored", hint))
            return {}
        for row in table.rows:
            num_rows += 1
            files = [text for name in columns if (text := _text(row.get(name)))]
            match = next((found for file in files if (found := _match_file(file, by_name, folder))), None)
            if match is None:
                num_unmatched += bool(files)
                unmatched += files[:1] if len(unmatched) < _MAX_LISTED else []
                continue
            labels = read_labels({name: cell for name, cell in row.items() if _text(cell)}, path, problems)
            earlier = matched.get(match, Labels(path))
            values, origins = earlier.values | labels.values, earlier.origins | labels.origins
            times_s, tag = labels.line_times_s or earlier.line_times_s, labels.custom_tag or earlier.custom_tag
            matched[match] = Labels(path, values, origins, times_s, tag)
    if num_unmatched:
        listed = ", ".join(unmatched) + (" ..." if num_unmatched > len(unmatched) else "")
        hint = "Use the file names in the folder, with the subfolder if two files have the same name."
        message = f"{num_unmatched} of {num_rows} rows match no audio file, or several: {listed}"
        problems.append(Problem(path, message, hint))
    return matched


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _match_file(file: str, by_name: Mapping[str, list[Path]], folder: Path) -> Path | None:
    name = file.replace("\\", "/")
    last = name.rpartition("/")[2]
    files = by_name.get(filename_key(last))
    if not files and last.lower().endswith(AUDIO_EXTENSIONS):  # converted to another format since
        files = by_name.get(filename_key(last.rpartition(".")[0]))
    if not files:
        return None
    path = PurePosixPath(name)
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
