"""Wording that this project avoids in text that users read, and the standard term for each.

Run ``python -m dev.ban_list`` to list every occurrence, optionally only those under the given paths.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parents[1]
SCRIPTS = ("launch.py", "lora_training_ui.py", "captioner_standalone.py")

# regular expression -> the wording to use. Patterns are matched without regard to case.
BANNED: dict[str, str] = {
    r"\b(go|goes|going|went) on\b": "resume, continue",
    r"\bgraphics cards?\b|(?<!model )(?<!design )\bcards?\b": "GPU (or the specific panel or document)",
    r"\bour fault\b": "a bug",
    r"\bat hand\b": "available",
    r"\btold\b|\btells?\b": "report, show, describe",
    r"\bwish(es|ed)?\b": "request, want",
    r"\bleft out\b|\bleaves? out\b": "skipped, omitted, dropped",
    r"\byardsticks?\b": "evaluation",
    r"(?<![</])\bfigures?\b": "metrics, numbers",
    r"\breckon\w*": "estimate, compute",
    r"\bnumber types?\b": "dtype, precision",
    r"\bby heart\b": "overfit",
    r"\brests\b": "remainders",
    r"\bin words\b": "as a message",
    r"\bwithout a word\b": "unexpectedly",
    r"\bbeside the other\b": "sharing the GPU",
    r"\bkin\b": "related",
    r"\bheard\b": "used, loaded",
    r"\btries again\b|\btrying again\b": "retries, retrying",
    r"\bspeaks? like it\b": "compatible",
    r"\bpulls? of\b": "weight decay, effect of",
    r"\blonger gradients\b": "the gradient norm",
    r"\blooked for\b|\blooks? for\b": "search",
    r"\bbroke off\b|\bbreaks? off\b": "was interrupted",
    r"\bis wanted\b|\bare wanted\b": "is required",
    r"behaviour|colour": "behavior, color",
    r"\b(quanti|normali|initiali|optimi|seriali|recogni|organi|summari|synchroni)s(e[ds]?|ing|ation|ers?)\b": (
        "American spelling with z"
    ),
    r"\blicences?\b": "license",
    r"\bcentres?\b|\bcentred\b": "center",
    r"(?<![-_])\bunlabelled\b|\blabelled\b|\bcancelled\b|\bmodell(ed|ing)\b": "American spelling with one l",
}
_BANNED = [(re.compile(pattern, re.I), better) for pattern, better in BANNED.items()]

# Sentences that stay: files of an earlier version contain them, and their upgrade compares them.
STORED_SENTENCES = frozenset({"goes on after a pause", "waiting for the graphics card: "})


class Hit(NamedTuple):
    path: str
    line: int
    found: str
    better: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.found!r}, better: {self.better}: {self.text}"


def documents() -> list[Path]:
    return sorted([*PROJECT.glob("*.md"), *(PROJECT / "docs").glob("*.md")])


def sources() -> list[Path]:
    return [*sorted((PROJECT / "acestep").rglob("*.py")), *(PROJECT / name for name in SCRIPTS)]


def hits() -> list[Hit]:
    """Every banned wording in the documents and in the messages of the program."""
    found: list[Hit] = []
    for path in (*documents(), *sources()):
        texts = sentences(path) if path.suffix == ".py" else lines(path)
        name = path.relative_to(PROJECT).as_posix()
        found += [Hit(name, line, *hit) for line, text in texts for hit in banned_in(text)]
    return found


def banned_in(text: str) -> list[tuple[str, str, str]]:
    """The banned wordings in a text: as found, the better wording, and the text around it."""
    found = []
    for pattern, better in _BANNED:
        for match in pattern.finditer(text):
            start, end = max(0, match.start() - 50), match.end() + 50
            found.append((match.group(), better, " ".join(text[start:end].split())))
    return found


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Line and value of each string constant with a space in a Python file, docstrings excluded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        if " " in node.value and node.value not in STORED_SENTENCES:
            yield node.lineno, node.value


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line of a document, without code spans, which hold names of files, keys and options."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        yield number, re.sub(r"`[^`]*`", "``", line)


def main() -> None:
    for hit in hits():
        if not sys.argv[1:] or hit.path.startswith(tuple(sys.argv[1:])):
            print(hit)  # noqa: T201


if __name__ == "__main__":
    main()
