"""Names that stay: ids of songs that are the same in each scan, and names compared as people see them."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Set

_ID_LENGTH = 8


def sample_id(place: str, taken: Set[str]) -> str:
    """Eight hex digits made of the song's path in its folder, more of them if those are ``taken``.

    The same song has the same id in each scan, so that its tensor file is found again.
    """
    place = unicodedata.normalize("NFC", place.replace("\\", "/"))
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    lengths = range(_ID_LENGTH, len(digest) + 1)
    return next((digest[:length] for length in lengths if digest[:length] not in taken), f"{digest}-{len(taken)}")


def same_name(name: str) -> str:
    """Equal for names that differ only in case or in how their accents are encoded (macOS writes them apart)."""
    return unicodedata.normalize("NFC", name).casefold()
