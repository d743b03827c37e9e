"""Follows a job from the terminal: prints its events and handles Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from acestep.core.events import Failed
from acestep.core.job_folder import JobFolder

WriteLine = Callable[[str], None]
STOP_SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and the end of a service
if sys.platform == "win32":
    STOP_SIGNALS += (signal.SIGBREAK,)  # Ctrl-Break; there, SIGTERM is sent by nobody


@contextmanager
def follow_events(folder: Path, write_line: WriteLine) -> Iterator[None]:
    """Pass each event that a job writes to ``folder`` while the block runs to ``write_line``.

    ``Failed`` is not passed on: the caller has it, with its hint, as the last event of the job.
    """
    log, finished = JobFolder(folder).events, threading.Event()
    _, start = log.read()

    def follow() -> None:
        offset, ended = start, False
        while not ended:
            ended = finished.wait(0.2)
            events, offset = log.read(offset)
            for event in events:
                if not isinstance(event, Failed):
                    write_line(str(event))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()


@contextmanager
def stop_on_signals(folder: Path, write_line: WriteLine) -> Iterator[None]:
    """Make the first Ctrl-C or SIGTERM request a stop of the job in ``folder``, and the second one exit the program.

    Only works in the main thread.
    """

    def request_stop(_signum: int, _frame: object) -> None:
        job = JobFolder(folder)
        if job.stop_requested:
            raise KeyboardInterrupt
        job.request_stop()
        write_line("stopping after the current step (press Ctrl-C again to exit immediately) ...")

    with _on_signals(request_stop):
        yield


@contextmanager
def stop_on_launcher_signals(stop: threading.Event) -> Iterator[None]:
    """Make the signals of torchrun or SLURM set ``stop``, which stops this process and so the others of the job.

    Only works in the main thread. The launcher kills a process that takes too long.
    """
    with _on_signals(lambda _signum, _frame: stop.set()):
        yield


@contextmanager
def _on_signals(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
