"""Waiting between attempts, for use as the ``sleep`` of ``tenacity.Retrying``."""

from __future__ import annotations

import time
from collections.abc import Callable

from acestep.core.errors import JobCancelled

_POLL_S = 0.1


def sleep_unless_stopped(seconds: float, should_stop: Callable[[], bool], message: str = "stopped by the user") -> None:
    """Sleep for ``seconds``, checking ``should_stop`` ten times a second.

    Raises:
        JobCancelled: with ``message``, as soon as ``should_stop`` returns True.
    """
    end = time.monotonic() + seconds
    while (remaining := end - time.monotonic()) > 0:
        if should_stop():
            raise JobCancelled(message)
        time.sleep(min(remaining, _POLL_S))
