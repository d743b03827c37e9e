"""The repository stands on its own, and its messages and documents use the standard terms of the field."""

from __future__ import annotations

import re
import subprocess

import pytest

from acestep.core.paths import PROJECT
from dev.ban_list import BANNED, banned_in, hits

# Documents that are not part of the repository.
PRIVATE = re.compile(
    r"\b(?:SPEC|DESIGN|INTEROP|PLANNER|PEERS|WISHES) ?(?:\d|[A-Z] ?\d)"  # a section: SPEC 3.1
    r"|\b(?:SPEC|DESIGN|INTEROP|UI|PLANNER|LANGUAGE|STYLE|PEERS|WISHES)\.md\b"
    r"|(?<![\w.-])shared/|/work/"
)


def tracked_text() -> list[tuple[str, str]]:
    """Path and content of every text file that git tracks, this test excepted."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], stdin=subprocess.DEVNULL, cwd=PROJECT, capture_output=True, check=True
    ).stdout
    found = []
    for name in listed.decode().split("\0"):
        path = PROJECT / name
        if not name or not path.is_file() or name in ("tests/test_words.py", "dev/ban_list.py"):
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            found.append((name, content.decode("utf-8", "replace")))
    return found


def test_no_file_refers_to_a_document_outside_the_repository() -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, content in tracked_text()
        for number, line in enumerate(content.splitlines(), 1)
        if PRIVATE.search(line)
    ]
    assert not found, "\n".join(found)


def test_messages_and_documents_use_the_standard_terms() -> None:
    found = hits()
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize(
    "sentence",
    [
        "The run goes on.",
        "Waiting for the graphics card.",
        "This is our fault.",
        "Shows the figures.",
        "Unlabelled songs",
    ],
)
def test_the_check_finds_banned_words(sentence: str) -> None:
    assert banned_in(sentence)


@pytest.mark.parametrize("sentence", ["The model card of an export.", "<figure class='chart'>", "--include-unlabelled"])
def test_the_check_accepts_standard_terms(sentence: str) -> None:
    assert not banned_in(sentence)


def test_every_pattern_names_a_better_wording() -> None:
    assert all(BANNED.values())
