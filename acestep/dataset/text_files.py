"""Reading text files in UTF-8, UTF-16 or a Western European Windows encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

from acestep.dataset.labels import Problem

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def read_text(path: Path, problems: list[Problem]) -> str | None:
    """Text of a file with "\\n" line ends, None if it cannot be read. Adds to ``problems`` if it is not UTF-8."""
    try:
        data = path.read_bytes()
    except OSError as error:
        problems.append(Problem(path, f"cannot be read: {error.strerror}", "Check the file permissions."))
        return None
    encoding = next((encoding for mark, encoding in _BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        content = data.decode(encoding)
    except UnicodeDecodeError:
        content = data.decode("cp1252") if _is_cp1252(data) else data.decode("latin-1")
        hint = "Save the file as UTF-8 if characters look wrong."
        problems.append(Problem(path, "is not UTF-8 and was read as Western European (Windows)", hint))
    return content.replace("\r\n", "\n").replace("\r", "\n")


def _is_cp1252(data: bytes) -> bool:
    return not set(data) & {0x81, 0x8D, 0x8F, 0x90, 0x9D}
