"""The folders of this program, and conversion of user input to paths and file names."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from pathlib import Path, PurePath
from urllib.parse import urlsplit
from urllib.request import url2pathname

from acestep.core.errors import StorageError
from acestep.core.untrusted import shorten

WINDOWS = sys.platform == "win32"
PROJECT = Path(__file__).resolve().parents[2]  # the folder of launch.py

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # not allowed in file names on Windows
# The names of devices (learn.microsoft.com/windows/win32/fileio/naming-a-file), with any suffix.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL)
# Blanks, straight and typographic quotes, marks of writing direction and other invisible characters.
_MARKS = r"[\s\"'\u2018\u2019\u201c\u201d\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+"
_AROUND = re.compile(rf"^{_MARKS}|{_MARKS}$")
_MAX_NAME_BYTES = 240  # file systems allow 255; a number or a suffix may follow


def checkpoint_roots(custom: Path | None = None) -> list[Path]:
    """The folders that are searched for models, in order."""
    roots = [custom, custom / "checkpoints"] if custom else []
    return [*roots, PROJECT / "ACE-Step-1.5" / "checkpoints", PROJECT / "checkpoints"]


def typed_path(text: str) -> Path:
    """The path that a person typed or pasted.

    Blanks, quotes and invisible marks around it are removed, as file managers copy them; ``file://`` addresses, ``~``
    and an environment variable at the start are resolved.

    Raises:
        StorageError: no such user after ``~``.
    """
    plain = _AROUND.sub("", text)
    if plain.lower().startswith("file:"):
        address = urlsplit(plain)
        host = "" if address.netloc in ("", "localhost") else f"//{address.netloc}"
        plain = f"{host}{url2pathname(address.path)}"
    path = Path(os.path.expandvars(plain) if plain.startswith(("$", "%")) else plain)
    try:
        return path.expanduser()
    except RuntimeError as problem:
        raise StorageError(f"{shorten(path)!r} cannot be used: {problem}", hint="Enter the whole path.") from None


def is_network_path(text: str) -> bool:
    r"""Whether ``text`` is a path on another computer, such as ``\\host\share`` or ``//host/share``, in any notation.

    Looking for such a file makes Windows connect to the computer and send the user's credentials.
    """
    return text.strip().strip("\"'").replace("\\", "/").startswith("//")


def safe_name(text: str, *, max_length: int = 100) -> str:
    """``text`` as a file name that is valid on every system. Unicode letters are kept. Never empty."""
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text)).strip(" .")[:max_length]
    name = name.encode(errors="ignore")[:_MAX_NAME_BYTES].decode(errors="ignore").rstrip(" .")
    return f"_{name}" if not name or is_reserved(name) else name


def is_reserved(name: str) -> bool:
    """Whether Windows opens a device instead of the file ``name``: ``CON``, ``aux.txt``, ``com1 .json``."""
    return _DEVICE.fullmatch(name) is not None


def invalid_on_windows(path: PurePath) -> str:
    """The first part of ``path`` that is no valid name on Windows, "" if there is none.

    A colon writes to a hidden stream of the file before it; dots and blanks at the end are dropped.
    """
    names = path.parts[1:] if path.anchor else path.parts
    invalid = (n for n in names if n != ".." and (_FORBIDDEN.search(n) or is_reserved(n) or n[-1] in " ."))
    return next(invalid, "")
