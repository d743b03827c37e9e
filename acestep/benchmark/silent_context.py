"""The context of a job whose events nobody reads."""

from __future__ import annotations

from acestep.core.events import Event
from acestep.core.jobs import Context


class SilentContext(Context):
    """A job without events."""

    def emit(self, event: Event) -> None:
        """Discard the event."""
