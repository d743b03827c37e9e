"""Reading text files in UTF-8, UTF-16 or an older encoding that is detected from the content."""

from __future__ import annotations

import codecs
import itertools
import re
from pathlib import Path

from acestep.dataset.labels import Problem

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_WESTERN = "Windows-1252"

# Short label files give low values: correct results on titles of a few words begin at about 0.1.
_MIN_CONFIDENCE = 0.1
_LATIN_ENCODINGS = ("Windows-1250", "Windows-1252", "Windows-1254", "Windows-1257", "ISO-8859-")
_SAMPLE_BYTES = 1_000_000
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f]")  # not in texts
_MAX_ACCENTS = 0.4  # of all letters; more of them is not a text in Latin script


def read_text(path: Path, problems: list[Problem]) -> str | None:
    """Text of a file with "\\n" line ends, None if it cannot be read or its encoding cannot be detected.

    Adds to ``problems`` if it is not UTF-8.
    """
    encoding = detect_encoding(path, problems)
    return None if encoding is None else path.read_text(encoding, errors="replace")


def detect_encoding(path: Path, problems: list[Problem]) -> str | None:
    """The encoding of a text file, which decodes all of it; None if it cannot be read or detected.

    Adds to ``problems`` if it is not UTF-8 or UTF-16.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_SAMPLE_BYTES)
            marked = next((encoding for mark, encoding in _BYTE_ORDER_MARKS if start.startswith(mark)), "utf-8")
            decoder = codecs.getincrementaldecoder(marked)()
            try:
                for data in itertools.chain([start], iter(lambda: file.read(_SAMPLE_BYTES), b"")):
                    decoder.decode(data)
                decoder.decode(b"", final=True)
                return marked
            except UnicodeDecodeError:
                return _detect(path, start, problems)
    except OSError as error:
        problems.append(Problem(path, f"cannot be read: {error.strerror}", "Check the file permissions."))
        return None


def _detect(path: Path, data: bytes, problems: list[Problem]) -> str | None:
    import chardet  # takes a moment to load, and most files are UTF-8

    found = chardet.detect(data)
    encoding, confidence = found["encoding"] or "", found["confidence"] or 0.0
    if confidence < _MIN_CONFIDENCE and not encoding.startswith(_LATIN_ENCODINGS):
        encoding = _WESTERN if _is_latin(data) else ""
    try:
        content = codecs.getincrementaldecoder(encoding)().decode(data)  # a sample may end within a character
    except (UnicodeDecodeError, LookupError):
        content = "\0"
    if _CONTROL.search(content):
        message = "is not used: it is not UTF-8, and its encoding cannot be detected"
        problems.append(Problem(path, message, "Save the file as UTF-8."))
        return None
    message = f"is not UTF-8 and was read as {encoding} (confidence {confidence:.0%})"
    problems.append(Problem(path, message, "Save the file as UTF-8 if characters look wrong."))
    return encoding


def _is_latin(data: bytes) -> bool:
    accented = sum(byte > 0x7F for byte in data)
    letters = accented + sum(chr(byte).isalpha() for byte in data if byte <= 0x7F)
    return accented <= _MAX_ACCENTS * letters
