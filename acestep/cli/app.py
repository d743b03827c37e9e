"""``python -m acestep COMMAND``: assembles the commands and turns every error into a message and an exit code.

Progress and messages go to stderr. With ``--json``, the last line of stdout is one JSON object.
Exit codes: 0 success, 1 user error, 2 wrong usage, 3 bug in this program, 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys

import typer
from loguru import logger

from acestep.cli import (
    adapters,
    bench_models,
    caption,
    dataset,
    demo,
    generate,
    memory,
    models,
    preprocess,
    runs,
    settings,
    system,
    train,
)
from acestep.cli.console import print_error
from acestep.core.errors import AceStepError, JobCancelled, code_of
from acestep.core.log import set_up_logging
from acestep.core.standard_streams import use_utf8

app = typer.Typer(
    name="acestep",
    help="Train adapters for the ACE-Step 1.5 music generation model on your own songs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (
    demo,
    dataset,
    caption,
    preprocess,
    settings,
    memory,
    train,
    runs,
    generate,
    adapters,
    models,
    system,
):
    app.add_typer(group.commands)
app.add_typer(bench_models.commands, name="bench")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code. A user error never shows a traceback."""
    use_utf8()
    arguments = sys.argv[1:] if argv is None else argv
    set_up_logging(verbose=bool(os.environ.get("ACESTEP_VERBOSE")))
    try:
        app(args=arguments, prog_name="python -m acestep")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except JobCancelled as stop:
        return _fail(stop, 130, arguments)
    except AceStepError as error:
        return _fail(error, 1, arguments)
    except Exception as error:  # noqa: BLE001 - the outermost border: bugs in this program
        logger.exception("Unexpected error")
        return _fail(error, 3, arguments)
    return 0


def _fail(error: BaseException, code: int, arguments: list[str]) -> int:
    print_error(code_of(error), str(error), getattr(error, "hint", ""), "--json" in arguments)
    return code
