"""Sets up logging with loguru. Only the pages and the command line call it. Secrets and the home folder are masked."""

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

# API keys of Hugging Face, OpenAI, Google and ElevenLabs, and any value after a name such as "token" or "password".
_SECRET = re.compile(
    r"\b(hf_|sk-|sk_|AIza)[\w-]{8,}"
    r"|(?i:(?P<name>api[-_]?key|xi-api-key|authorization|token|password|secret)"
    r"(?P<mark>[\"']?\s*[:=]\s*[\"']?(?:bearer )?))[^\s\"',;&]+"
)


def mask(text: str) -> str:
    """``text`` with secrets replaced by ``***`` and the home folder by ``~``."""
    text = _SECRET.sub(lambda m: f"{m['name']}{m['mark']}***" if m["name"] else f"{m[1]}***", text)
    return text.replace(str(Path.home()), "~") if Path.home() != Path("/") else text


def set_up_logging(*, verbose: bool = False, stderr: TextIO | None = None) -> None:
    """Log to the terminal: warnings and errors, or everything if ``verbose``."""
    logger.remove()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it logs a warning about an optional package at import
    stream = stderr or sys.stderr
    if stream is not None:  # None under pythonw

        def write(line: str) -> None:
            stream.write(mask(line))

        logger.add(write, format=_FORMAT, level="DEBUG" if verbose else "WARNING", diagnose=False)


@contextmanager
def job_log(path: Path) -> Iterator[None]:
    """Also write the log messages of this thread to ``path`` while the block runs."""
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:

        def write(line: str) -> None:
            file.write(mask(line))
            file.flush()

        def is_of_this_job(record: dict[str, object]) -> bool:
            extra = record["extra"]
            return isinstance(extra, dict) and extra.get("job_log") == str(path)

        sink = logger.add(write, format=_FORMAT, filter=is_of_this_job, diagnose=False)  # type: ignore[arg-type]
        try:
            with logger.contextualize(job_log=str(path)):
                yield
        finally:
            logger.remove(sink)
