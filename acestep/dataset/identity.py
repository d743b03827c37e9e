"""Stable sample ids, and file name comparison that ignores case and Unicode normalization."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Set

_ID_LENGTH = 8


def sample_id(relative_path: str, existing: Set[str]) -> str:
    """The first eight hex digits of the SHA-256 of ``relative_path``, more of them if that id exists already.

    The id is the same in each scan, so the tensor file of the sample is found again.

    Args:
        relative_path: path of the audio file relative to the dataset folder.
        existing: ids of the other samples.
    """
    relative_path = unicodedata.normalize("NFC", relative_path.replace("\\", "/"))
    digest = hashlib.sha256(relative_path.encode("utf-8", "surrogateescape")).hexdigest()
    lengths = range(_ID_LENGTH, len(digest) + 1)
    return next((digest[:length] for length in lengths if digest[:length] not in existing), f"{digest}-{len(existing)}")


def filename_key(name: str) -> str:
    """A key that is equal for names that differ only in case or Unicode normalization (macOS decomposes accents)."""
    return unicodedata.normalize("NFC", name).casefold()
