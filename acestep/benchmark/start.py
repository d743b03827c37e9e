"""Time to open the trainer page. Importing this module does not import torch."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from acestep.benchmark.compare import PLAIN, Round, Speed, alternate
from acestep.core.errors import JobError
from acestep.core.paths import PROJECT

_TIMEOUT_S = 300.0
_OPEN = "import runpy, sys; sys.argv = ['launch.py', *sys.argv[1:]]; runpy.run_path('launch.py', run_name='__main__')"
_PROGRAMS = {"as given": _OPEN, PLAIN: f"import torch; {_OPEN}"}


def bench_start(*, plain: bool, rounds: int, on_round: Callable[[str], None]) -> list[Speed]:
    """Time until ``launch.py`` serves the page, each in a new process; ``PLAIN`` imports torch before.

    ``details`` has the time of ``import torch`` alone.

    Raises:
        JobError: the page is not served, or torch cannot be imported.
    """

    def measure(name: str, program: str, is_first_round: bool) -> Round:
        del is_first_round
        return Round([_seconds_until_served(program)], songs=1, details={"import of torch": _seconds_to_import_torch()})

    programs = _PROGRAMS if plain else {"as given": _OPEN}
    return alternate(programs, measure, rounds=rounds, on_round=on_round)


def _seconds_until_served(program: str) -> float:
    port = _free_port()
    command = [sys.executable, "-c", program, "--port", str(port), "--skip-env-check"]
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            while not _is_served(port):
                if server.poll() is not None or time.perf_counter() - start > _TIMEOUT_S:
                    raise JobError("the trainer page was not served", hint="Start launch.py to see why.")
                time.sleep(0.02)
            return time.perf_counter() - start
        finally:
            server.terminate()


def _is_served(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _seconds_to_import_torch() -> float:
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, "-c", "import torch"], stdin=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise JobError("torch cannot be imported", hint="Run doctor to check the installation.")
    return time.perf_counter() - start


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
