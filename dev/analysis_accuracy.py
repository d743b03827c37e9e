"""Accuracy of tempo, meter and key on synthesized songs: ``python -m dev.analysis_accuracy``.

Not part of the tests. ``--per-style N`` and ``--seed N`` select the songs.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass

from acestep.audio.analysis import analyse, key_number, same_key
from tests.synth_songs import RATE_HZ, Song, play, songs
from tests.synth_styles import STYLES

TEMPO = ("exact", "half", "double", "other")
KEY = ("exact", "relative", "parallel", "fifth", "other")


@dataclass(frozen=True, slots=True)
class Result:
    """The analysis of one song compared with its true values."""

    song: Song
    tempo: str
    key: str
    meter: bool
    measured: str


def compare_tempo(truth: float, measured: float | None) -> str:
    """``exact`` within 4 %; ``half`` or ``double`` within 4 % of half or double the tempo; else ``other``."""
    for name, factor in (("exact", 1.0), ("half", 0.5), ("double", 2.0)):
        if measured and abs(measured / (truth * factor) - 1) <= 0.04:
            return name
    return "other"


def compare_key(truth: str, measured: str) -> str:
    """The relation of two keys, one of ``KEY``."""
    if same_key(truth, measured):
        return "exact"
    first, second = key_number(truth), key_number(measured)
    if first is None or second is None:
        return "other"
    if first // 12 != second // 12:
        if first % 12 == second % 12:
            return "parallel"
        return "relative" if (first % 12 - second % 12) % 12 == (9 if first >= 12 else 3) else "other"
    return "fifth" if (first - second) % 12 in (5, 7) else "other"


def evaluate(selected: list[Song]) -> list[Result]:
    """Analyze each song and compare with its true values."""
    results = []
    for song in selected:
        found = analyse(play(song), RATE_HZ)
        measured = f"{found.bpm} {found.timesignature}/ {found.keyscale}"
        key = compare_key(song.key, found.keyscale)
        results.append(
            Result(song, compare_tempo(song.bpm, found.bpm), key, found.timesignature == song.meter, measured)
        )
    return results


def table(results: list[Result]) -> str:
    """One line per style and a total, in percent."""
    rows: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        rows[result.song.style].append(result)
    lines = [
        f"{'style':16}{'songs':>6}{'tempo':>7}{'half':>6}{'double':>7}{'other':>6}{'meter':>7}{'key':>6}{'relative':>9}"
    ]
    for name, group in [*((style, rows[style]) for style in STYLES), ("all", results)]:
        if group:
            lines.append(_line(name, group))
    return "\n".join(lines)


def _line(name: str, group: list[Result]) -> str:
    def share(test: list[bool]) -> str:
        return f"{100 * sum(test) / len(test):.0f}"

    tempo = [share([r.tempo == kind for r in group]) for kind in TEMPO]
    meter, key, relative = (
        share(test)
        for test in (
            [r.meter for r in group],
            [r.key == "exact" for r in group],
            [r.key == "relative" for r in group],
        )
    )
    return (
        f"{name:16}{len(group):>6}{tempo[0]:>7}{tempo[1]:>6}{tempo[2]:>7}{tempo[3]:>6}{meter:>7}{key:>6}{relative:>9}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-style", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true", help="list the songs with a wrong result")
    options = parser.parse_args()
    results = evaluate(songs(options.per_style, options.seed))
    print(table(results))  # noqa: T201 - a command-line script
    if options.verbose:
        for result in results:
            if result.tempo != "exact" or result.key != "exact" or not result.meter:
                print(result.song, "->", result.measured)  # noqa: T201


if __name__ == "__main__":
    main()
