"""Start the pages: the trainer, the captioner, or both, each in its own process.

    python launch.py                  trainer    http://127.0.0.1:7861
    python launch.py --mode caption   captioner  http://127.0.0.1:7862
    python launch.py --mode both      both

Only the standard library is imported until the check of the installed packages has passed.
"""

from __future__ import annotations

import argparse
import getpass
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
from acestep.core.garbage import garbage_collection_paused
from acestep.core.standard_streams import take_stdin, use_utf8, utf8_environment
from acestep.system.check import Check
from acestep.system.device_check import QUICK_IMPORTS, check_imports
from acestep.system.doctor import check_packages, check_python, read_requirements

if TYPE_CHECKING:
    from acestep.ui.serve import Address

TRAINER_PORT, CAPTIONER_PORT = 7861, 7862
PAGES = {"train": "lora_training_ui", "caption": "captioner_standalone"}
NAMES = {"train": "trainer", "caption": "captioner"}
_AUTH = "ACESTEP_AUTH"  # the login as NAME:PASSWORD; other users can read command lines
_CHILD_GRACE_S = 5


def main(argv: list[str] | None = None) -> int:
    """Run until Ctrl-C or SIGTERM. Exit code 0 stopped, 1 could not start."""
    use_utf8()
    arguments = _parser().parse_args(argv)
    if arguments.check:
        return _report([*_environment(), *check_imports(QUICK_IMPORTS)], verbose=True)
    if not arguments.skip_env_check and _report(_environment()):
        return 1
    try:
        return _run(arguments)
    except AceStepError as error:
        print(f"Not started: {error}. {error.hint}".strip(), file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="launch.py", description="Start the trainer, the captioner, or both.")
    parser.add_argument("--mode", choices=["train", "caption", "both"], default="train")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any other needs --auth")
    parser.add_argument(
        "--port",
        type=int,
        help=f"default {TRAINER_PORT}, captioner {CAPTIONER_PORT}; both: the captioner takes the next",
    )
    parser.add_argument(
        "--auth",
        metavar="NAME[:PASSWORD]",
        help=f"require a login; without a password it is asked for. The variable {_AUTH}=NAME:PASSWORD does the same",
    )
    parser.add_argument(
        "--share", action="store_true", help="also open a public link through gradio.live; needs --auth"
    )
    parser.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[], help="another host name of this computer"
    )
    parser.add_argument(
        "--browser", action=argparse.BooleanOptionalAction, default=False, help="open the page in the browser"
    )
    parser.add_argument("--check", action="store_true", help="only check the installation")
    parser.add_argument("--skip-env-check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--with-parent", action="store_true", help=argparse.SUPPRESS)  # exit when stdin closes
    return parser


def _environment() -> list[Check]:
    return [check_python(), *check_packages(read_requirements())]


def _report(checks: list[Check], *, verbose: bool = False) -> int:
    """Print failed checks, or all checks with ``verbose``. Returns the exit code."""
    for check in checks:
        if not check.ok:
            print(f"missing  {check.name}: {check.detail}. {check.hint}", file=sys.stderr)
        elif verbose:
            print(f"ok       {check.name}: {check.detail}")
    return 0 if all(check.ok for check in checks) else 1


def _run(arguments: argparse.Namespace) -> int:
    from acestep.ui.serve import Address, open_page, prepare_environment, stop_signals

    mode = "train" if arguments.mode == "both" else arguments.mode
    port = arguments.port or (TRAINER_PORT if mode == "train" else CAPTIONER_PORT)
    address = Address(arguments.host, port, _login(arguments.auth), arguments.share, tuple(arguments.allow_host))
    for wanted in [address, replace(address, port=port + 1)] if arguments.mode == "both" else [address]:
        wanted.check_free()
    for note in prepare_environment(os.environ):
        print(f"Note: {note}.", file=sys.stderr)
    with garbage_collection_paused():
        page = importlib.import_module(PAGES[mode]).build_page()
    with stop_signals() as stop, ExitStack() as running:
        if arguments.with_parent:
            threading.Thread(target=_stop_with_parent, args=(take_stdin(), stop), daemon=True).start()
        public = running.enter_context(open_page(page, address, browser=arguments.browser))
        print(address.url, flush=True)  # launchers look for the first printed address, alone on its line
        print(f"READY: the {NAMES[mode]} is open at the address above. Ctrl-C stops it.", flush=True)
        if public:
            print(f"Public link, for everyone with the login: {public}", flush=True)
        child = running.enter_context(_captioner(arguments, address)) if arguments.mode == "both" else None
        while not stop.wait(0.5):
            if child is not None and child.poll() is not None:
                print(f"The captioner exited with code {child.returncode}; the trainer keeps running.", file=sys.stderr)
                child = None
    return 0


def _login(text: str | None) -> tuple[str, str] | None:
    text = text or os.environ.pop(_AUTH, "")  # not for the processes that this one starts
    if not text:
        return None
    name, colon, password = text.partition(":")
    if name and not colon:
        password = _ask_password(name)
    if not name or not password:
        raise ConfigError(["--auth must be NAME:PASSWORD, or NAME to be asked for the password"])
    return name, password


def _ask_password(name: str) -> str:
    """The password entered in the terminal, "" without a terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        return ""
    try:
        return getpass.getpass(f"Password for {name}: ")
    except EOFError:
        return ""


@contextmanager
def _captioner(arguments: argparse.Namespace, address: Address) -> Iterator[subprocess.Popen[bytes]]:
    """The captioner process on the next port. It ends with the block, and also if this program is killed."""
    command = [sys.executable, str(Path(__file__).resolve()), "--mode", "caption", "--host", address.host]
    command += ["--port", str(address.port + 1), "--skip-env-check", "--with-parent"]
    command += ["--share"] if address.share else []
    command += ["--browser"] if arguments.browser else []
    for name in address.names:
        command += ["--allow-host", name]
    environment = utf8_environment() | ({_AUTH: ":".join(address.auth)} if address.auth else {})
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()  # it then stops by itself; on Windows, ``terminate`` would not let it save anything
        try:
            process.wait(_CHILD_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _stop_with_parent(pipe: int, stop: threading.Event) -> None:
    while os.read(pipe, 1024):  # b"" once the parent process has closed it or has ended
        pass
    stop.set()


if __name__ == "__main__":
    sys.exit(main())
