"""Text files of people: UTF-8, what Excel writes, or whatever Windows used before."""

from __future__ import annotations

import codecs
from pathlib import Path

from acestep.dataset.labels import Problem

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_text(path: Path, problems: list[Problem]) -> str | None:
    """The text of a file, line ends as "\\n"; None if it cannot be read. Doubts are told in ``problems``."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        problems.append(Problem(path, f"cannot be read: {problem.strerror}", "Check that this user may read it."))
        return None
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8")
    try:
        content = data.decode(encoding)
    except UnicodeDecodeError:
        content = data.decode("cp1252") if _is_cp1252(data) else data.decode("latin-1")
        hint = "Save it as UTF-8 if letters look wrong."
        problems.append(Problem(path, "is not UTF-8 and was read as Western European (Windows)", hint))
    return content.replace("\r\n", "\n").replace("\r", "\n")


def _is_cp1252(data: bytes) -> bool:
    return not set(data) & {0x81, 0x8D, 0x8F, 0x90, 0x9D}
