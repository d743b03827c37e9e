"""The buttons that start, pause and stop a job, with the reason while a job cannot start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from acestep.core.job_folder import JobFolder
from acestep.ui import html, layout
from acestep.ui.errors import warn
from acestep.ui.page_context import PageContext
from acestep.ui.watch import ACTIVE, Watch


@dataclass(frozen=True, slots=True)
class StartVariant:
    """Another way to start the job, offered while it is ``available``."""

    label: str
    elem_id: str
    available: Callable[[], bool] = lambda: True


class JobControls:
    """The buttons of one kind of job. The tab adds the listeners of ``start`` and ``variants``."""

    def __init__(
        self,
        page: PageContext,
        watch: Watch,
        elem_id: str,
        start: str,
        stop: str,
        *,
        variants: Sequence[StartVariant] = (),
        pause: bool = False,
        blocked_by: Callable[[], str] = lambda: "",
    ) -> None:
        """
        Args:
            start, stop: labels of the buttons.
            pause: whether the job can be paused.
            blocked_by: describes the other job that must end first, "" if none runs.
        """
        self._watch, self._offered, self._blocked_by = watch, variants, blocked_by
        with layout.actions():
            self.start = gr.Button(start, variant="primary", elem_id=f"{elem_id}-start")
            self.variants = [gr.Button(each.label, elem_id=each.elem_id) for each in variants]
            self._pause = gr.Button("Pause", elem_id=f"{elem_id}-pause", visible=pause)
            self._stop = gr.Button(stop, variant="stop", elem_id=f"{elem_id}-stop")
        self._reason = gr.HTML(visible=False, elem_id=f"{elem_id}-blocked")
        page.on(self._stop.click, self._on_stop)
        page.on(self._pause.click, self._on_pause)
        outputs = [self.start, *self.variants, self._pause, self._stop, self._reason]
        page.live.add(outputs, self._version, self._render)

    def _version(self) -> tuple[object, ...]:
        return self._watch.read()[0], bool(self._blocked_by()), tuple(each.available() for each in self._offered)

    def _render(self) -> list[Any]:
        state, _ = self._watch.read()
        blocked_by = self._blocked_by()
        can_start = state not in ACTIVE and not blocked_by
        can_stop = gr.update(interactive=state in ("running", "paused"))
        reason = f"Waiting for {blocked_by}. Only one job runs at a time." if blocked_by else ""
        return [
            gr.update(interactive=can_start),
            *(gr.update(interactive=can_start and each.available()) for each in self._offered),
            {**can_stop, "value": "Resume" if state == "paused" else "Pause"},
            can_stop,
            gr.update(value=f'<p class="ac-phase">{html.text(reason)}</p>', visible=bool(reason)),
        ]

    def _on_stop(self) -> None:
        if not request_stop(self._watch):
            warn("Nothing is running.")

    def _on_pause(self) -> None:
        if not toggle_pause(self._watch):
            warn("Nothing is running.")


def request_stop(watch: Watch) -> bool:
    """Ask a job to save and stop. False if it is not active."""
    if watch.folder is None or not watch.active:
        return False
    JobFolder(watch.folder).request_stop()
    return True


def toggle_pause(watch: Watch) -> bool:
    """Ask a job to pause, or to resume if it is paused. False if it is not active."""
    state, _ = watch.read()
    if watch.folder is None or state not in ACTIVE:
        return False
    folder = JobFolder(watch.folder)
    folder.request_resume() if state == "paused" else folder.request_pause()
    return True
