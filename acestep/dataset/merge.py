"""What several files say of one song, made into one description. The strongest comes last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from acestep.dataset.labels import INSTRUMENTAL, Labels, Problem, is_sung


def merge_labels(layers: Iterable[Labels], *, all_instrumental: bool, problems: list[Problem]) -> dict[str, Any]:
    """The label fields of a sample, ``labeled``, ``raw_lyrics`` and ``sources`` among them.

    Lyrics and the instrumental mark belong together: whoever gives the lyrics that count decides, a mark without
    lyrics counts only where no one has any. Words are not given up for the mark of an instrumental piece, which
    captioners write when they were not asked for lyrics: that is told in ``problems``. They are where the file names
    who found the piece instrumental, and that was a person, or the words stand in a table, which is older.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        taken = dict(layer.values)
        sung = is_sung(values.get("lyrics", ""))
        if "lyrics" in taken:
            if sung and not is_sung(taken["lyrics"]) and not _knows(layer, origins["lyrics"]):
                problems.append(_disagree(layer, origins["lyrics"]))
                taken = {key: value for key, value in taken.items() if key not in ("lyrics", "is_instrumental")}
            else:
                taken.setdefault("is_instrumental", not is_sung(taken["lyrics"]))
                if sung and not is_sung(taken["lyrics"]):  # the language was that of the words
                    values.pop("language", None)
                    origins.pop("language", None)
        elif sung:
            taken.pop("is_instrumental", None)
        if layer.path.suffix.lower() == ".txt" and is_sung(taken.get("lyrics", "")):
            values["raw_lyrics"] = taken["lyrics"]
        values |= taken
        origins |= {key: layer.origins.get(key, layer.path.name) for key in taken}
    instrumental = values.setdefault("is_instrumental", all_instrumental)
    values.setdefault("lyrics", INSTRUMENTAL if instrumental else "")
    return {**values, "labeled": "caption" in values, "sources": origins}


def _knows(layer: Labels, words_from: str) -> bool:
    """Whether the mark of an instrumental piece is worth more than words in another file."""
    who = layer.origins.get("lyrics", layer.path.name)
    return who == "user" or (who != layer.path.name and words_from.lower().endswith(".csv"))


def _disagree(layer: Labels, lyrics_file: str) -> Problem:
    return Problem(
        layer.path,
        f"says that the song is instrumental, but {lyrics_file} has lyrics, which are used",
        f"Remove the lyrics from {lyrics_file} if the song has none.",
    )
