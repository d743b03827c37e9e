"""Start, pause and stop: always saying why one of them cannot be pressed now."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.ui import html
from acestep.ui.errors import warn
from acestep.ui.trainer.page_context import TrainerContext
from acestep.ui.watch import ACTIVE


class JobControls:
    """The buttons of one kind of job. What ``start`` does is the tab's own affair."""

    def __init__(self, page: TrainerContext, job: str, start: str, stop: str, *, pause: bool = False) -> None:
        self._app, self._job = page.app, job
        self._runner = page.app.runner_of(job)
        with gr.Row(elem_classes="ac-actions"):
            self.start = gr.Button(start, variant="primary", elem_id=f"tr-{job}-start")
            self._pause = gr.Button("Pause", elem_id=f"tr-{job}-pause", visible=pause)
            self._stop = gr.Button(stop, variant="stop", elem_id=f"tr-{job}-stop")
        self._why = gr.HTML(visible=False, elem_id=f"tr-{job}-why")
        page.on(self._stop.click, self._ask_to_stop, quiet=True)
        page.on(self._pause.click, self._ask_to_wait, quiet=True)
        page.live.show([self.start, self._pause, self._stop, self._why], self._version, self._render)

    def _version(self) -> object:
        return self._app.watches[self._job].look()[0], self._runner.busy

    def _render(self) -> list[Any]:
        state, _ = self._app.watches[self._job].look()
        active = state in ACTIVE
        other = self._runner.busy and not active
        why = f"Waits for {self._app.current_job()}: one job at a time." if other else ""
        return [
            gr.update(interactive=not active and not other),
            gr.update(interactive=state in ("running", "paused"), value="Go on" if state == "paused" else "Pause"),
            gr.update(interactive=state in ("running", "paused")),
            gr.update(value=f'<p class="ac-phase">{html.text(why)}</p>', visible=bool(why)),
        ]

    def _ask_to_stop(self) -> None:
        if not self._app.stop(self._job):
            warn("Nothing is running.")

    def _ask_to_wait(self) -> None:
        if not self._app.pause(self._job):
            warn("Nothing is running.")
