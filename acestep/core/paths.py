"""The folders of this program, and conversion of user input to paths and file names."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from acestep.core.errors import StorageError
from acestep.core.untrusted import shorten

PROJECT = Path(__file__).resolve().parents[2]  # the folder of launch.py

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')  # not allowed in file names on Windows
# Blanks, straight and typographic quotes, marks of writing direction and other invisible characters.
_MARKS = r"[\s\"'\u2018\u2019\u201c\u201d\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+"
_AROUND = re.compile(rf"^{_MARKS}|{_MARKS}$")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


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
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text)).strip(" .")[:max_length].rstrip(" .")
    return f"_{name}" if not name or name.split(".")[0].lower() in _RESERVED else name
