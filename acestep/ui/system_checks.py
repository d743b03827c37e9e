"""The system checks of both pages: what is installed, and a report that can be copied into a bug report."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import gradio as gr

from acestep import __version__
from acestep.system.check import Check
from acestep.system.doctor import diagnose
from acestep.ui import html, layout
from acestep.ui.page_context import PageContext


class SystemChecks:
    """Components and listeners. The checks run when the tab is selected."""

    def __init__(self, page: PageContext, prefix: str, checkpoints: Callable[[], Path | None]) -> None:
        """
        Args:
            prefix: begins the element ids.
            checkpoints: the additional folder of models, if one is set.
        """
        self._checkpoints = checkpoints
        layout.heading("This computer")
        with layout.actions():
            quick = gr.Button("Run checks", elem_id=f"{prefix}-system-check")
            thorough = gr.Button("Run all checks", elem_id=f"{prefix}-system-check-all")
        results = gr.HTML(html.notice("Checking. This takes a few seconds."), elem_id=f"{prefix}-system-checks")
        report = gr.Textbox(
            label="Report",
            info="For a question or a bug report. It contains no song names and no keys.",
            lines=4,
            max_lines=8,
            interactive=False,
            buttons=["copy"],
            elem_id=f"{prefix}-system-report",
        )
        page.on(page.tab.select, self._check, [], [results, report])
        page.on(quick.click, self._check, [], [results, report], busy_on=results)
        page.on(thorough.click, self._check_all, [], [results, report], busy_on=results)

    def _check(self) -> tuple[str, str]:
        return _results(diagnose(checkpoints=self._checkpoints()))

    def _check_all(self) -> tuple[str, str]:
        return _results(diagnose(deep=True, checkpoints=self._checkpoints()))


def _results(checks: list[Check]) -> tuple[str, str]:
    """The table of results as HTML, and the report as text."""
    rows = [("ok" if check.ok else "failed", check.name, check.detail) for check in checks]
    failed = [check for check in checks if not check.ok]
    notices = "".join(html.notice(f"{check.name}: {check.detail}", [check.hint], "bad") for check in failed)
    notices = notices or html.notice("All required packages and tools are installed.", tone="good")
    title = f"acestep {__version__}, {platform.platform()}"
    report = "\n".join([title, *(f"{result}  {name}: {detail}" for result, name, detail in rows)])
    return notices + html.table(["Result", "Check", "Found"], rows, "System checks"), report
