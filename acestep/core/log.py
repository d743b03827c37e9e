"""Logs: loguru's sinks, set up by the faces and the command line only. Secrets and home paths are masked."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from loguru import logger

_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {name}:{line} {message}"

# What keys look like: Hugging Face, OpenAI, Google, ElevenLabs and whatever follows a telling name.
_SECRET = re.compile(
    r"\b(hf_|sk-|sk_|AIza)[\w-]{8,}"
    r"|(?i:(?P<name>api[-_]?key|xi-api-key|authorization|token|password|secret)"
    r"(?P<mark>[\"']?\s*[:=]\s*[\"']?(?:bearer )?))[^\s\"',;&]+"
)


def mask(text: str) -> str:
    """``text`` without secrets and without the user's home folder."""
    text = _SECRET.sub(lambda m: f"{m['name']}{m['mark']}***" if m["name"] else f"{m[1]}***", text)
    return text.replace(str(Path.home()), "~") if Path.home() != Path("/") else text


def set_up_logging(*, verbose: bool = False, stderr: TextIO | None = None) -> None:
    """Log to the terminal: warnings and worse, or everything when ``verbose``."""
    logger.remove()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it names an optional package at each import
    stream = stderr or sys.stderr
    if stream is not None:  # pythonw has none

        def write(line: str) -> None:
            stream.write(mask(line))

        logger.add(write, format=_FORMAT, level="DEBUG" if verbose else "WARNING", diagnose=False)


@contextmanager
def job_log(path: Path) -> Iterator[None]:
    """While the block runs, what this thread logs goes to ``path`` as well."""
    with path.open("a", encoding="utf-8") as file:

        def write(line: str) -> None:
            file.write(mask(line))
            file.flush()

        def mine(record: dict[str, object]) -> bool:
            extra = record["extra"]
            return isinstance(extra, dict) and extra.get("job_log") == str(path)

        sink = logger.add(write, format=_FORMAT, filter=mine, diagnose=False)  # type: ignore[arg-type]
        try:
            with logger.contextualize(job_log=str(path)):
                yield
        finally:
            logger.remove(sink)
