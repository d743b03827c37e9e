"""Long recordings cut into pieces that are trained on one by one."""

from __future__ import annotations

import gradio as gr

from acestep.audio.cuts import CutAt
from acestep.ui import html, layout
from acestep.ui.page_context import PageContext
from acestep.ui.workspace import Workspace

_SECONDS = [30, 60]
_CUTS = [("exactly", "exact"), ("in a pause", "silence"), ("at a bar line", "bar")]
_SHOWN = 20


class SplitPanel:
    """Components and listeners."""

    def __init__(self, page: PageContext, workspace: Workspace) -> None:
        self._workspace = workspace
        with layout.section("Split Long Audio Files", "tr-split"):
            with layout.grid():
                source = gr.Textbox(label="Input Folder", info="Subfolders are not searched.", elem_id="tr-split-in")
                out = gr.Textbox(
                    label="Output Folder",
                    info="Must differ from the input folder.",
                    elem_id="tr-split-out",
                )
                seconds = gr.Radio(
                    _SECONDS,
                    value=_SECONDS[0],
                    label="Segment Duration (s)",
                    info="Remainders under 10 s are dropped.",
                    elem_id="tr-split-seconds",
                )
                at = gr.Radio(
                    _CUTS,
                    value="exact",
                    label="Cut",
                    info="In a pause or at a bar line, segments become a little shorter. Labels are copied.",
                    elem_id="tr-split-at",
                )
            button = gr.Button("Split Audio Files", elem_id="tr-split-start")
            result = gr.HTML(elem_id="tr-split-result")
        page.saved_fields.add("split.in", source)
        page.saved_fields.add("split.out", out)
        page.saved_fields.add("split.seconds", seconds, lambda value: value in _SECONDS)
        page.saved_fields.add("split.at", at, lambda value: value in [name for _, name in _CUTS])
        page.on(button.click, self._split, [source, out, seconds, at], [result], busy_on=result)

    def _split(
        self,
        source: str,
        out: str,
        seconds: int,
        at: CutAt,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> str:
        from acestep.dataset.split_songs import split_songs

        def report(done: int, total: int, name: str) -> None:
            progress((done, total), desc=name)

        folder = self._workspace.folder(source, "Input Folder")
        target = self._workspace.path(out, "Output Folder")
        made = split_songs(folder, target, seconds, at=at, on_progress=report)
        words = f"{html.count(len(made.segments), 'segment')} in {target}"
        return html.notice(words, made.left_out[:_SHOWN], "warn" if made.left_out else "good")
