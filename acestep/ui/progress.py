"""The status of a job on the page: state, progress, time left, skipped files, and log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gradio as gr

from acestep.core.device_lock import share_device
from acestep.core.events import Cancelled, Failed, Finished
from acestep.ui import html
from acestep.ui.listeners import add_listener
from acestep.ui.live import LiveUpdates
from acestep.ui.watch import ACTIVE, JobView, State, Watch

STATE_LABELS: dict[State, str] = {
    "idle": "not started",
    "running": "running",
    "paused": "paused",
    "stopping": "stopping",
    "done": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "interrupted": "interrupted",
}
STATE_TONES: dict[State, html.Tone] = {
    "running": "busy",
    "paused": "warn",
    "stopping": "warn",
    "done": "good",
    "stopped": "warn",
    "failed": "bad",
    "interrupted": "bad",
}
_SHOWN_WARNINGS = 5


class JobPanel:
    """Components that show the latest job of one kind. Creates them in the current Gradio context."""

    def __init__(
        self, live: LiveUpdates, watch: Watch, name: str, *, nothing_yet: str, result: Callable[[dict[str, Any]], str]
    ) -> None:
        """
        Args:
            name: prefix of the element ids.
            nothing_yet: text before the first job.
            result: HTML for the result of a finished job.
        """
        self._watch, self._nothing_yet, self._result = watch, nothing_yet, result
        self._status = gr.HTML(elem_id=f"{name}-status")
        self._run_anyway = gr.Button("Run anyway (share the GPU)", visible=False, size="sm", elem_id=f"{name}-beside")
        add_listener(live, self._run_anyway.click, self._share)
        with gr.Accordion("Log", open=False, elem_classes="ac-fold", elem_id=f"{name}-log"):
            self._log = gr.HTML()
        live.add([self._status, self._log, self._run_anyway], watch.version, self._render)

    def _share(self) -> None:
        if self._watch.folder is not None:
            share_device(self._watch.folder)

    def _render(self) -> tuple[str, str, Any]:
        state, view = self._watch.read()
        run = f"{self._watch.folder}:{view.began_s}"
        badge = html.badge(STATE_LABELS[state], STATE_TONES.get(state, "plain"), state=state, run=run)
        parts = [f'<div class="ac-line">{badge}']
        parts.append(f'<span class="ac-phase">{html.text(self._phase(state, view))}</span></div>')
        if state in ACTIVE or (state in ("stopped", "failed", "interrupted") and view.total):
            parts.append(_progress_html(state, view))
        parts.append(self._ending(state, view))
        parts.append(_problems_html(view))
        empty = "The log appears here when the job starts."
        waits = state == "running" and view.waiting
        return "".join(parts), html.log_box(view.lines, "Log of the job", empty), gr.update(visible=waits)

    def _phase(self, state: State, view: JobView) -> str:
        if state == "idle":
            return self._nothing_yet
        if state == "stopping":
            return "Finishing the current step, then saving."
        if state == "paused":
            return "Paused. The memory stays allocated."
        return describe_phase(view) if state == "running" else ""

    def _ending(self, state: State, view: JobView) -> str:
        last = view.last
        if state == "done" and isinstance(last, Finished):
            return self._result(last.result)
        if state == "stopped" and isinstance(last, Cancelled):
            return html.notice("Stopped.", [last.message], "warn")
        if state == "failed" and isinstance(last, Failed):
            return html.notice(f"{last.message[:1].upper()}{last.message[1:]}", [last.hint], "bad")
        if state == "interrupted":
            message = "The program exited while this job was running. Saved results are still available."
            return html.notice("Interrupted.", [message], "bad")
        return ""


def describe_phase(view: JobView) -> str:
    """What the job does, with the time that the phase has taken and its estimate; in a run, the epoch and the step."""
    if not view.phase_began_s:
        position = view.position if view.total and not view.waiting else ""
        return view.phase or f"{position[:1].upper()}{position[1:]}"
    words = [view.phase]
    progress, elapsed = view.phase_progress, time.time() - view.phase_began_s
    if progress is not None and progress.total:
        words.append(f"{100 * progress.done // progress.total} %")
    if elapsed >= 1:
        words.append(f"{html.approximate_time(elapsed)} elapsed")
    if progress is not None and progress.seconds_left is not None:
        words.append(f"about {html.approximate_time(progress.seconds_left)} left")
    return ", ".join(words)


def _progress_html(state: State, view: JobView) -> str:
    if not view.total:
        return html.progress_bar(0, 0, "Progress") if state == "running" else ""
    share = f"{100 * view.done // view.total} %"
    words = [f"{view.done} of {view.total} {view.unit}", share]
    if state in ACTIVE:
        words.append(f"{html.approximate_time(max(0.0, time.time() - view.began_s))} elapsed")
    if state == "running":
        left, speed = view.seconds_left, view.units_per_second
        if left is not None:
            words.append(f"{html.approximate_time(left)} left")
        if speed is not None and view.unit == "steps":
            words.append(f"{speed:.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step")
    return html.progress_bar(view.done, view.total, "Progress") + (
        f'<div class="ac-numbers">{html.text(" · ".join(words))}</div>'.replace("·", "&middot;")
    )


def _problems_html(view: JobView) -> str:
    parts = []
    if view.warnings:
        parts.append(html.notice("Warnings", list(dict.fromkeys(view.warnings))[-_SHOWN_WARNINGS:], "warn"))
    if view.skipped:
        rows = [(item.item, item.message, item.hint) for item in view.skipped]
        title = f"{html.count(len(rows), 'file')} skipped"
        parts.append(html.notice(title, tone="warn") + html.table(["File", "Reason", "What to do"], rows, title))
    return "".join(parts)
