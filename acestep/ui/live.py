"""Panels of a page that show state of the server and render again when that state changes.

The page itself holds no state: a reloaded page, a second one and one that lost its connection catch up at the next
poll. A panel reports its state as a hashable version; nothing is sent while the version stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import BlockContext
from loguru import logger

from acestep.core.errors import AceStepError
from acestep.ui import html
from acestep.ui.errors import INTERNAL_ERROR, describe_error

POLL_INTERVAL_S = 1.5
_NOW = "() => String(performance.now())"


@dataclass(frozen=True, slots=True)
class _Failure:
    """The version of a panel that could not render."""

    message: str


class _NeverRendered:
    """The version of a panel before its first render."""


@dataclass(frozen=True, slots=True)
class _Panel:
    """``error`` is the component that shows a failure; one of ``outputs`` or a separate component."""

    outputs: list[Any]
    error: gr.HTML
    version: Callable[[], Hashable]
    render: Callable[[], Sequence[Any]]

    @property
    def components(self) -> list[Any]:
        return self.outputs if self.error in self.outputs else [*self.outputs, self.error]

    def refresh(self, seen: Hashable) -> tuple[Hashable, list[Any]]:
        """The new version and a value for each of ``components``."""
        try:
            version = self.version()
            if version == seen:
                return seen, self._unchanged
            values = list(self.render())
            assert len(values) == len(self.outputs)
        except Exception as error:  # noqa: BLE001 - the border of a panel: the other panels keep updating
            failure = _Failure(describe_error(error) if isinstance(error, AceStepError) else INTERNAL_ERROR)
            if failure == seen:
                return seen, self._unchanged
            logger.opt(exception=error).error("a panel of the page could not render")
            return failure, [self._on_failure(component, failure) for component in self.components]
        if self.error not in self.outputs:
            values.append(gr.update(value="", visible=False))
        return version, values

    @property
    def _unchanged(self) -> list[Any]:
        return [gr.skip() for _ in self.components]

    def _on_failure(self, component: Any, failure: _Failure) -> Any:
        if component is self.error:
            notice = html.notice("This part of the page could not be updated", [failure.message], "bad")
            return gr.update(value=notice, visible=True)
        return gr.update(visible=True) if isinstance(component, BlockContext) else gr.skip()


class LiveUpdates:
    """The panels of one page."""

    def __init__(self) -> None:
        self._panels: list[_Panel] = []
        self._on_load: tuple[list[Any], Callable[[], Sequence[Any]]] = [], list
        self._triggers: list[Callable[..., Any]] = []
        self._seen = gr.State({})  # panel number -> the version that this page shows
        self.hidden = gr.HTML(visible="hidden")
        self._finished = gr.Textbox("", visible="hidden")  # when a listener of this page has finished

    @property
    def silent(self) -> dict[str, Any]:
        """Options of an event listener that shows no progress.

        Its progress is shown on a hidden component: Gradio 6.31 writes the status of every event that ever showed its
        progress on a field to that field whenever anything happens, and removes what a validation has written there.
        """
        return {
            "queue": False,
            "show_progress": "hidden",
            "show_progress_on": self.hidden,
            "api_visibility": "private",
        }

    def add(self, outputs: Sequence[Any], version: Callable[[], Hashable], render: Callable[[], Sequence[Any]]) -> None:
        """Add a panel. ``render`` returns a value for each of ``outputs``; it is called when ``version`` changes.

        If either raises an exception, the error is shown in the first ``gr.HTML`` of ``outputs``, or below them.
        """
        place = next((output for output in outputs if isinstance(output, gr.HTML)), None)
        self._panels.append(_Panel(list(outputs), place or gr.HTML(visible=False), version, render))

    def on_load(self, outputs: Sequence[Any], render: Callable[[], Sequence[Any]]) -> None:
        """Render ``outputs`` once when the page opens, in the same request as the panels."""
        self._on_load = list(outputs), render

    def wire(self, blocks: gr.Blocks) -> None:
        """Call last: render everything when the page opens, then poll."""
        outputs = [self._seen, *self.components]
        more, render = self._on_load

        def render_all() -> list[Any]:
            return [*self.refresh({}), *render()]

        blocks.load(render_all, None, [*outputs, *more], **self.silent)
        gr.Timer(POLL_INTERVAL_S).tick(self._poll, self._seen, outputs, trigger_mode="once", **self.silent)
        for trigger in self._triggers:
            trigger(None, None, self._finished, js=_NOW, **self.silent)
        self._finished.change(self._poll, self._seen, outputs, trigger_mode="always_last", **self.silent)

    def after(self, event: Any) -> None:
        """Refresh as soon as ``event`` has finished. Gradio 6.31 skips ``then`` after an error."""
        self._triggers += [event.success, event.failure]

    @property
    def components(self) -> list[Any]:
        """All outputs of all panels, in the order of the values of ``refresh``."""
        return [component for panel in self._panels for component in panel.components]

    def refresh(self, seen: dict[int, Hashable]) -> list[Any]:
        """The versions of all panels, then a value for each of ``components``; a skip where ``seen`` is current."""
        versions: dict[int, Hashable] = {}
        values: list[Any] = []
        for number, panel in enumerate(self._panels):
            versions[number], updates = panel.refresh(seen.get(number, _NeverRendered))
            values += updates
        return [versions, *values]

    def _poll(self, seen: dict[int, Hashable]) -> Any:
        versions, *values = self.refresh(seen)
        return gr.skip() if versions == seen else [versions, *values]
