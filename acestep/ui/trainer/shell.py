"""What the tabs of a page are built with: one way to answer events, to lead from tab to tab, to say what is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.ui import html
from acestep.ui.errors import told
from acestep.ui.live import Live
from acestep.ui.settings import Fields
from acestep.ui.trainer.desk import Desk
from acestep.ui.trainer.standing import TABS


@dataclass(frozen=True, slots=True)
class Cure:
    """Something that a tab lacks, and the tab where it can be had."""

    words: str
    tab: str


def heading(words: str) -> None:
    """A title above the widgets that follow."""
    gr.HTML(f'<h3 class="ac-title">{html.text(words)}</h3>')


class Shell:
    """One page: the desk it works on, its live parts, its kept fields and its tabs."""

    def __init__(self, desk: Desk, page: gr.Blocks, tabs: gr.Tabs) -> None:
        self.desk, self.page, self.tabs = desk, page, tabs
        self.tab: gr.Tab  # the one that is being filled
        self.live, self.kept = Live(), Fields(desk.settings)

    def on(
        self,
        trigger: Callable[..., Any],
        handler: Callable[..., Any],
        inputs: Sequence[Component] = (),
        outputs: Sequence[Any] = (),
        *,
        check: Callable[..., Any] | None = None,
        busy_on: Component | None = None,
        quiet: bool = False,
    ) -> Any:
        """Answer an event; problems are told on the page, and its live parts look again afterwards.

        Args:
            check: says what is wrong at which of ``inputs`` before the handler is called.
            busy_on: shows that the handler is at work.
            quiet: for handlers that are done at once.
        """
        event = trigger(
            told(handler),
            list(inputs),
            list(outputs),
            validator=check,
            show_progress="hidden" if quiet or busy_on is None else "minimal",
            show_progress_on=busy_on,
            queue=not quiet,
            api_visibility="private",
        )
        self.live.after(event)
        return event

    def go(self, button: gr.Button, tab: str | Callable[[], str]) -> None:
        """Let a button open a tab."""

        def choose() -> Any:
            return gr.Tabs(selected=tab if isinstance(tab, str) else tab())

        button.click(choose, None, self.tabs, queue=False, show_progress="hidden", api_visibility="private")

    def cure(
        self, name: str, problem: Callable[[], Cure | None], version: Callable[[], Any], *, primary: bool = False
    ) -> None:
        """While there is a problem, say it here, with the one button that leads to the cure."""
        with gr.Row(elem_classes="ac-cure", visible=False) as row:
            words = gr.HTML(elem_id=f"{name}-missing")
            button = gr.Button("", variant="primary" if primary else "secondary", elem_id=f"{name}-cure", scale=0)

        def paint() -> Sequence[Any]:
            found = problem()
            if found is None:
                return gr.update(visible=False), gr.skip(), gr.skip()
            label = f"Go to {TABS[found.tab]}"
            return gr.update(visible=True), html.card(found.words, tone="warn"), gr.update(value=label)

        self.live.show([row, words, button], version, paint)
        self.go(button, lambda: found.tab if (found := problem()) else "service")
