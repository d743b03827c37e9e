"""Reading the rows of label tables: CSV, TSV, JSON lines and Excel.

Rows of text files are read one by one, so that a table may be large.
"""

from __future__ import annotations

import csv
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from acestep.dataset.labels import Problem, field_name, normalize_name
from acestep.dataset.text_files import detect_encoding

FILE_COLUMNS = ("path", "audiopath", "file", "filename", "name")  # most specific first

_DELIMITERS = (",", ";", "\t", "|")
_DECLARATION = "sep="  # first line of a CSV file that Excel wrote
_MAX_REPORTED = 10  # rows of one table
_MAX_XLSX_BYTES = 500_000_000  # unpacked

Row = Mapping[str, Any]  # values by column name


@dataclass(slots=True)
class Table:
    """The column names of a table, and its rows."""

    names: list[str]
    rows: Iterator[Row]


class RowProblems:
    """Collects the rows of one table that cannot be used."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self._path, self._problems, self._num = path, problems, 0

    def add(self, message: str, hint: str = "") -> None:
        self._num += 1
        if self._num <= _MAX_REPORTED:
            self._problems.append(Problem(self._path, message, hint))

    def finish(self) -> None:
        if self._num > _MAX_REPORTED:
            message = f"{self._num - _MAX_REPORTED} more rows are not used for such reasons"
            self._problems.append(Problem(self._path, message))


@contextmanager
def open_table(path: Path, problems: list[Problem]) -> Iterator[Table]:
    """The table in a file; without names and rows, and with an entry in ``problems``, if it cannot be read.

    Rows that are not well-formed are skipped and added to ``problems``.
    """
    reported = RowProblems(path, problems)
    if path.suffix.lower() == ".xlsx":
        yield _read_xlsx(path, reported)
    elif encoding := detect_encoding(path, problems):
        with path.open(encoding=encoding, errors="replace", newline="") as file:
            yield _READERS[path.suffix.lower()](file, reported)
    else:
        yield Table([], iter(()))
    reported.finish()


def num_known(names: list[str]) -> int:
    """How many of the column names are known."""
    return sum(normalize_name(name) in FILE_COLUMNS or field_name(name) is not None for name in names)


def _read_csv(file: TextIO, problems: RowProblems) -> Table:
    declared, num_skipped = "", 0
    header = ""
    for line in file:
        text = line.lstrip("\ufeff").strip()
        if text and not text.lower().startswith(_DECLARATION):
            header = line.lstrip("\ufeff")
            break
        declared = text[len(_DECLARATION) :][:1] or declared
        num_skipped += 1
    split = {mark: next(csv.reader([header], delimiter=mark), []) for mark in _DELIMITERS}
    delimiter = declared if declared in split else max(split, key=lambda mark: num_known(split[mark]))
    lines = itertools.chain([header], file)
    return _named(_csv_rows(lines, delimiter, num_skipped, problems), problems)


def _csv_rows(
    lines: Iterator[str], delimiter: str, num_skipped: int, problems: RowProblems
) -> Iterator[tuple[int, list[Any]]]:
    """The number of the first line of each row, and its cells. A line that is no row is reported."""
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        first = num_skipped + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            last = num_skipped + reader.line_num
            where = f"line {first}" if last <= first else f"lines {first} to {last}"
            hint = "Close each quote; write a quote inside a text twice."
            problems.add(f"{where}: a quote is not closed or not doubled; not used ({error})", hint)
            continue
        if any(map(str.strip, cells)):
            yield first, cells


def _named(rows: Iterator[tuple[int, list[Any]]], problems: RowProblems) -> Table:
    """A table whose first row has the column names."""
    _, names = next(rows, (0, []))
    names = ["" if name is None else str(name).strip() for name in names]

    def named() -> Iterator[Row]:
        for line, cells in rows:
            extra = [cell for cell in cells[len(names) :] if cell is not None and str(cell).strip()]
            if extra:
                message = f"line {line} has {len(cells)} cells for {len(names)} columns; not used"
                problems.add(message, "Put a text that contains the delimiter in quotes.")
            else:
                yield {name: cell for name, cell in zip(names, cells, strict=False) if name}

    return Table([name for name in names if name], named())


def _read_json_lines(file: TextIO, problems: RowProblems) -> Table:
    def rows() -> Iterator[Row]:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield row
            else:
                problems.add(f"line {number} is not a JSON object; not used")

    found = rows()
    first = next(found, {})
    return Table(list(first), itertools.chain([first] if first else [], found))


def _read_xlsx(path: Path, problems: RowProblems) -> Table:
    """The first sheet of a workbook. Formulas give the values that were saved with them."""
    from openpyxl import load_workbook  # loads slowly, and few folders have such a table
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > _MAX_XLSX_BYTES:
                problems.add("is not used: the workbook is too large", "Save the table as CSV.")
                return Table([], iter(()))
        workbook = load_workbook(path, read_only=True, data_only=True)
        sheet = workbook.worksheets[0]
        rows = [(number, list(cells)) for number, cells in enumerate(sheet.iter_rows(values_only=True), 1)]
        workbook.close()
    except (OSError, zipfile.BadZipFile, InvalidFileException, KeyError, IndexError, ValueError, SyntaxError) as error:
        problems.add(f"is not an Excel workbook that can be read: {error}", "Save the table as CSV.")
        return Table([], iter(()))
    return _named(((number, cells) for number, cells in rows if any(cell is not None for cell in cells)), problems)


_READERS: dict[str, Callable[[TextIO, RowProblems], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
}
TABLE_EXTENSIONS = (*_READERS, ".xlsx")
