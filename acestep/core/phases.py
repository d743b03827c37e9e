"""Progress within a phase of a job, such as loading a model, with an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable

from acestep.core.events import Event, PhaseStarted, Progressed

_INTERVAL_S = 1.0  # between two reports


class PhaseProgress:
    """Reports the start of a phase, and then its progress about once a second.

    The events carry the name of the phase, so that they do not count as progress of the whole job.
    """

    def __init__(self, emit: Callable[[Event], None], phase: str) -> None:
        self._emit, self._phase = emit, phase
        self._began_s = self._reported_s = time.monotonic()
        emit(PhaseStarted(phase=phase))

    def __call__(self, done: int, total: int) -> None:
        """``done`` of ``total`` units of any kind are finished."""
        now = time.monotonic()
        if now - self._reported_s < _INTERVAL_S or not 0 < done <= total:
            return
        self._reported_s = now
        left = (now - self._began_s) * (total - done) / done
        self._emit(Progressed(done=done, total=total, phase=self._phase, seconds_left=left))
