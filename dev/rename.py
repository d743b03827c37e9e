"""Rename identifiers over the whole repository, and record each rename in ``dev/renames.tsv``.

    python -m dev.rename NOUN OLD NEW [--in PATH ...] [--strings]
    python -m dev.rename evaluate Yardstick Evaluator --in acestep/training --in tests/training

Whole identifiers are replaced, in code, inside f-strings and in dotted import paths such as
``"acestep.training.loop:train"``. Other strings and comments stay as they are, because one word may mean two things;
``--strings`` includes them. The table shows which name a piece of code had before.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "dev" / "renames.tsv"
_HEAD = "noun\told\tnew\tscope\n"


def renamed(source: str, old: str, new: str, *, strings: bool) -> str:
    """``source`` with the identifier ``old`` replaced by ``new``."""
    word = re.compile(rf"(?<![\w]){re.escape(old)}(?![\w])")
    if strings:
        return word.sub(new, source)
    lines = source.splitlines(keepends=True)
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(source).readline))):
        text = token.string
        if token.type == tokenize.NAME and text == old:
            text = new
        elif token.type == tokenize.STRING:
            text = _in_string(text, word, new)
        if text != token.string:
            _put(lines, token.start, token.end, text)
    return "".join(lines)


def _in_string(text: str, word: re.Pattern[str], new: str) -> str:
    """Dotted paths of this package, and the expressions of an f-string."""
    text = re.sub(r"\bacestep(?:\.\w+)+(?::\w+)?", lambda match: word.sub(new, match[0]), text)
    prefix = text[: min(text.find(quote) for quote in "\"'" if quote in text)]
    if "f" in prefix.lower():
        text = re.sub(r"\{[^{}]*\}", lambda match: word.sub(new, match[0]), text)
    return text


def _put(lines: list[str], start: tuple[int, int], end: tuple[int, int], text: str) -> None:
    head, tail = lines[start[0] - 1][: start[1]], lines[end[0] - 1][end[1] :]
    lines[start[0] - 1 : end[0]] = [head + text + tail]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("noun")
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--in", dest="scope", action="append", default=[], help="file or folder; default: everywhere")
    parser.add_argument("--strings", action="store_true", help="also strings, docstrings and comments")
    arguments = parser.parse_args()
    listed = subprocess.run(
        ["git", "ls-files", "--", *(arguments.scope or ["."])],
        cwd=ROOT,
        check=True,
        capture_output=True,
        encoding="utf-8",
        errors="strict",
        stdin=subprocess.DEVNULL,
    )
    changed = 0
    for name in listed.stdout.splitlines():
        file = ROOT / name
        if file.suffix == ".py" and file != Path(__file__) and file.is_file():
            source = file.read_text(encoding="utf-8")
            result = renamed(source, arguments.old, arguments.new, strings=arguments.strings)
            if result != source:
                file.write_text(result, encoding="utf-8")
                changed += 1
    row = "\t".join([arguments.noun, arguments.old, arguments.new, " ".join(arguments.scope) or "*"])
    with TABLE.open("a", encoding="utf-8") as table:
        table.write((_HEAD if table.tell() == 0 else "") + row + "\n")
    print(f"{arguments.old} -> {arguments.new}: {changed} files")  # noqa: T201


if __name__ == "__main__":
    main()
