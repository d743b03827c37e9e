"""Merging the labels of one sample from several files. Later files take precedence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from acestep.dataset.labels import INSTRUMENTAL, Labels, Problem, is_sung


def merge_labels(sources: Iterable[Labels], *, all_instrumental: bool, problems: list[Problem]) -> dict[str, Any]:
    """Merge labels into the fields of a ``Sample``, including ``labeled``, ``raw_lyrics`` and ``sources``.

    Lyrics and the instrumental flag are merged together: the file whose lyrics are used also sets the flag, and a flag
    without lyrics applies only if no file has lyrics. Captioners write the instrumental marker when they are not asked
    for lyrics, so the marker does not replace lyrics from another file; the conflict is added to ``problems``. The
    marker does replace them if its file attributes it to the user, or if it states its source and the lyrics come from
    a table.

    Args:
        sources: labels in order of increasing precedence.
        all_instrumental: the instrumental flag if no file determines it.
        problems: receives conflicts between files.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in sources:
        labels = dict(source.values)
        sung = is_sung(values.get("lyrics", ""))
        if "lyrics" in labels:
            if sung and not is_sung(labels["lyrics"]) and not _overrides_lyrics(source, origins["lyrics"]):
                problems.append(_conflict(source, origins["lyrics"]))
                labels = {key: value for key, value in labels.items() if key not in ("lyrics", "is_instrumental")}
            else:
                labels.setdefault("is_instrumental", not is_sung(labels["lyrics"]))
                if sung and not is_sung(labels["lyrics"]):  # it was the language of the replaced lyrics
                    values.pop("language", None)
                    origins.pop("language", None)
        elif sung:
            labels.pop("is_instrumental", None)
        if source.path.suffix.lower() == ".txt" and is_sung(labels.get("lyrics", "")):
            values["raw_lyrics"] = labels["lyrics"]
        if "lyrics" in labels:
            values["line_times_s"] = source.line_times_s
        values |= labels
        origins |= {key: source.origins.get(key, source.path.name) for key in labels}
    instrumental = values.setdefault("is_instrumental", all_instrumental)
    values.setdefault("lyrics", INSTRUMENTAL if instrumental else "")
    return {**values, "labeled": "caption" in values, "sources": origins}


def _overrides_lyrics(source: Labels, lyrics_file: str) -> bool:
    """Whether the instrumental marker in ``source`` takes precedence over lyrics in ``lyrics_file``."""
    author = source.origins.get("lyrics", source.path.name)
    return author == "user" or (author != source.path.name and lyrics_file.lower().endswith(".csv"))


def _conflict(source: Labels, lyrics_file: str) -> Problem:
    return Problem(
        source.path,
        f"is marked as instrumental, but {lyrics_file} has lyrics, which are used",
        f"Remove the lyrics from {lyrics_file} if the audio is instrumental.",
    )
