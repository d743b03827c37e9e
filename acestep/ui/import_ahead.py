"""Imports torch in the background once the page has been served, so that the first click does not wait for it."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable

from loguru import logger
from starlette.types import ASGIApp, Receive, Scope, Send

_DELAY_S = 3.0  # the browser loads the rest of the page; an import in another thread would slow the answers down


class ImportAhead:
    """Calls ``start`` in another thread, once, ``delay_s`` after a browser was sent the page first.

    Gradio checks with a HEAD request that its server answers, before anyone opens the page.
    """

    def __init__(self, app: ASGIApp, start: Callable[[], None], delay_s: float = _DELAY_S) -> None:
        self._app = app
        self._timer: threading.Timer | None = threading.Timer(delay_s, start)
        self._timer.daemon = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)
        if self._timer is not None and scope["type"] == "http" and (scope["method"], scope["path"]) == ("GET", "/"):
            self._timer.start()
            self._timer = None


def import_torch() -> None:
    """Import torch. A click that needs it meanwhile waits for this import; a failure is reported when it is needed."""
    try:
        importlib.import_module("torch")
    except Exception as problem:  # noqa: BLE001 - border of the thread; the first use raises it again
        logger.warning("torch cannot be imported: {}", problem)
