"""Watch a job from beside it: what a terminal shows, and what a signal does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from acestep.core.events import Failed
from acestep.core.job_folder import JobFolder

WriteLine = Callable[[str], None]


@contextmanager
def follow_events(folder: Path, say: WriteLine) -> Iterator[None]:
    """``say`` each event that a job writes to ``folder`` while the block runs.

    A failure is left to the caller, who has it with its hint as the job's last event.
    """
    log, over = JobFolder(folder).events, threading.Event()
    _, start = log.read()

    def follow() -> None:
        offset, ended = start, False
        while not ended:
            ended = over.wait(0.2)
            events, offset = log.read(offset)
            for event in events:
                if not isinstance(event, Failed):
                    say(str(event))

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def stop_on_signals(folder: Path, say: WriteLine) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the job in ``folder`` to stop and save, the second ends the program.

    For the main thread.
    """

    def ask(_signum: int, _frame: object) -> None:
        job = JobFolder(folder)
        if job.stop_requested:
            raise KeyboardInterrupt
        job.request_stop()
        say("stopping after this unit of work (once more to end at once) ...")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
