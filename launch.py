"""Starts the pages: the trainer, the captioner, or both (the captioner then is a process of its own).

    python launch.py                  trainer    http://127.0.0.1:7861
    python launch.py --mode caption   captioner  http://127.0.0.1:7862
    python launch.py --mode both      both

Only the standard library is imported until it is known that everything else is installed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from acestep.core.errors import AceStepError, ConfigError
from acestep.doctor import (
    QUICK_IMPORTS,
    Check,
    check_imports,
    check_packages,
    check_python,
    read_requirements,
)

if TYPE_CHECKING:
    from acestep.ui.serve import Address

TRAINER_PORT, CAPTIONER_PORT = 7861, 7862
PAGES = {"train": "lora_training_ui", "caption": "captioner_standalone"}
NAMES = {"train": "trainer", "caption": "captioner"}
_AUTH = "ACESTEP_AUTH"  # how the captioner's process learns the login: other users can read command lines
_CHILD_GRACE_S = 5


def main(argv: list[str] | None = None) -> int:
    """Run until Ctrl-C or SIGTERM. Exit code 0 stopped, 1 could not start."""
    arguments = _parser().parse_args(argv)
    if arguments.check:
        return _tell([*_environment(), *check_imports(QUICK_IMPORTS)], all_of_them=True)
    if not arguments.skip_env_check and _tell(_environment()):
        return 1
    try:
        return _run(arguments)
    except AceStepError as error:
        print(f"Not started: {error}. {error.hint}".strip(), file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launch.py", description="Start the trainer, the captioner, or both.")
    parser.add_argument("--mode", choices=["train", "caption", "both"], default="train")
    parser.add_argument("--host", default="127.0.0.1", help="address to open; any but this computer's needs --auth")
    parser.add_argument(
        "--port",
        type=int,
        help=f"default {TRAINER_PORT}, captioner alone {CAPTIONER_PORT}; both: the captioner has the next",
    )
    parser.add_argument("--auth", metavar="NAME:PASSWORD", help="ask for a login")
    parser.add_argument(
        "--share", action="store_true", help="also open a public link through gradio.live; needs --auth"
    )
    parser.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[], help="another name of this computer"
    )
    parser.add_argument("--browser", action=argparse.BooleanOptionalAction, default=False, help="open the page")
    parser.add_argument("--check", action="store_true", help="only say whether everything is installed")
    parser.add_argument("--skip-env-check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)  # end when stdin closes
    return parser


def _environment() -> list[Check]:
    return [check_python(), *check_packages(read_requirements())]


def _tell(checks: list[Check], *, all_of_them: bool = False) -> int:
    """Print what is wrong, or everything. Returns the exit code."""
    for check in checks:
        if not check.ok:
            print(f"missing  {check.name}: {check.detail}. {check.hint}", file=sys.stderr)
        elif all_of_them:
            print(f"ok       {check.name}: {check.detail}")
    return 0 if all(check.ok for check in checks) else 1


def _run(arguments: argparse.Namespace) -> int:
    from acestep.ui.serve import Address, import_gradio, open_page, prepare_environment, stop_signals

    mode = "train" if arguments.mode == "both" else arguments.mode
    port = arguments.port or (TRAINER_PORT if mode == "train" else CAPTIONER_PORT)
    address = Address(arguments.host, port, _login(arguments.auth), arguments.share, tuple(arguments.allow_host))
    for wanted in [address, replace(address, port=port + 1)] if arguments.mode == "both" else [address]:
        wanted.check_free()
    for note in prepare_environment(os.environ):
        print(f"Note: {note}.", file=sys.stderr)
    import_gradio()
    page = importlib.import_module(PAGES[mode]).build_page()
    with stop_signals() as stop, ExitStack() as running:
        if arguments.with_parent:
            threading.Thread(target=_stop_with_parent, args=(stop,), daemon=True).start()
        public = running.enter_context(open_page(page, address, browser=arguments.browser))
        print(address.url, flush=True)  # the first address that is printed, alone on its line: launchers look for it
        print(f"READY: the {NAMES[mode]} is open at the address above. Ctrl-C stops it.", flush=True)
        if public:
            print(f"Public link, for everyone with the login: {public}", flush=True)
        child = running.enter_context(_captioner(arguments, address)) if arguments.mode == "both" else None
        while not stop.wait(0.5):
            if child is not None and child.poll() is not None:
                print(f"The captioner has ended (exit code {child.returncode}); the trainer goes on.", file=sys.stderr)
                child = None
    return 0


def _login(text: str | None) -> tuple[str, str] | None:
    text = text or os.environ.get(_AUTH, "")
    if not text:
        return None
    name, _, password = text.partition(":")
    if not name or not password:
        raise ConfigError(["--auth must be NAME:PASSWORD"])
    return name, password


@contextmanager
def _captioner(arguments: argparse.Namespace, address: Address) -> Iterator[subprocess.Popen[bytes]]:
    """The captioner's process, one port higher. It ends with the block, and also if this program is killed."""
    command = [sys.executable, str(Path(__file__).resolve()), "--mode", "caption", "--host", address.host]
    command += ["--port", str(address.port + 1), "--skip-env-check", "--with-parent"]
    command += ["--share"] if address.share else []
    command += ["--browser"] if arguments.browser else []
    for name in address.names:
        command += ["--allow-host", name]
    environment = os.environ | ({_AUTH: ":".join(address.auth)} if address.auth else {})
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_CHILD_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _stop_with_parent(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):  # b"" once the parent has closed its end, by whatever end it came to
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
