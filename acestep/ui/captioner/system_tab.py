"""System: the GPU, and checks of this computer."""

from __future__ import annotations

import gradio as gr

from acestep.captioning.omni_memory import GIB, gpu_requirement, omni_memory
from acestep.training.gpu_monitor import vram_status
from acestep.ui import html, layout
from acestep.ui.captioner.page_context import CaptionerContext
from acestep.ui.system_checks import SystemChecks

_REQUIREMENTS = (
    f"The captioner and the transcriber need {gpu_requirement()}. They are loaded one after the other and freed when a "
    "run ends."
)


class SystemTab:
    """Components and listeners."""

    def __init__(self, page: CaptionerContext) -> None:
        layout.heading("GPU Status")
        gpu = gr.HTML(html.notice("Checking."), elem_id="cp-gpu")
        page.on(page.tab.select, gpu_status, [], [gpu])
        SystemChecks(page, "cp", lambda: None)


def gpu_status() -> str:
    """The GPU, its memory use and other programs on it."""
    status = vram_status()
    if status is None:
        lines = ["Local models run on the CPU, which is slow.", _REQUIREMENTS]
        return html.notice("No NVIDIA GPU was found.", lines, "warn")
    return html.notice(
        str(status), [_REQUIREMENTS], "good" if status.free_gb * GIB >= omni_memory("4bit").total else "warn"
    )
