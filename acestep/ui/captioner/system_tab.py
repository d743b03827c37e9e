"""System: the graphics card, and whether everything that is needed is installed."""

from __future__ import annotations

import gradio as gr

from acestep.doctor import diagnose
from acestep.training.gpu_monitor import vram_status
from acestep.ui import html
from acestep.ui.captioner.page_context import CaptionerContext, actions
from acestep.ui.page_context import heading

_NEEDS = (
    "The captioner and the transcriber need 24 GB of graphics memory each, 12 GB in 8 bits, 8 GB in 4 bits. They are "
    "loaded one after the other, and freed when a run ends."
)


_LOOKING = "Looking; this takes a few seconds."


class SystemTab:
    """Widgets and what they do."""

    def __init__(self, page: CaptionerContext) -> None:
        heading("GPU Status")
        card = gr.HTML(html.notice(_LOOKING), elem_id="cp-gpu")
        heading("This computer")
        checks = gr.HTML(html.notice(_LOOKING), elem_id="cp-checks")
        with actions():
            again = gr.Button("Check again", elem_id="cp-check")
        page.on(page.tab.select, _look, [], [card, checks], quiet=True)
        page.on(again.click, _look, [], [card, checks], busy_on=checks)


def _look() -> tuple[str, str]:
    found = diagnose()
    cards = [html.notice(f"{check.name}: {check.detail}", [check.hint], "bad") for check in found if not check.ok]
    rows = [("ok" if check.ok else "wrong", check.name, check.detail) for check in found]
    good = html.notice("Everything that is needed is here.", tone="good")
    return gpu_status(), ("".join(cards) or good) + html.table(["", "What", "Found"], rows, "Checks")


def gpu_status() -> str:
    """The card's name, how full it is, and who else is on it."""
    status = vram_status()
    if status is None:
        return html.notice(
            "No NVIDIA card was found.", ["Local models run on the processor then, slowly.", _NEEDS], "warn"
        )
    return html.notice(str(status), [_NEEDS], "good" if status.free_gb >= 8 else "warn")
