"""A job without events, for what is measured."""

from __future__ import annotations

from loguru import logger

from acestep.core.events import Event, LogMessage
from acestep.core.jobs import Context


class SilentContext(Context):
    """Discards events, except warnings: they may mean that a setting is not measured, such as compile."""

    def emit(self, event: Event) -> None:
        """Log a warning; discard other events."""
        if isinstance(event, LogMessage) and event.warning:
            logger.warning("{}", event.message)
