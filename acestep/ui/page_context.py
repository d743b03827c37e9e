"""What the tabs of both pages are built with: answer events, lead from tab to tab, say what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.ui import html
from acestep.ui.errors import report_errors, warn
from acestep.ui.live import LiveUpdates
from acestep.ui.settings import SavedFields, Settings

_WRONG = "ac-wrong"


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """Something that a tab lacks, and the tab where it can be had."""

    words: str
    tab: str


def heading(words: str) -> None:
    """A title above the widgets that follow."""
    gr.HTML(f'<h3 class="ac-title">{html.text(words)}</h3>')


class PageContext:
    """One page: its live parts, its kept fields and its tabs, whose titles are given by id."""

    def __init__(self, settings: Settings, blocks: gr.Blocks, tabs: gr.Tabs, titles: Mapping[str, str]) -> None:
        self.blocks, self.tabs, self._titles = blocks, tabs, titles
        self.tab: gr.Tab  # the one that is being filled
        self.live, self.saved_fields = LiveUpdates(), SavedFields(settings)

    def on(
        self,
        trigger: Callable[..., Any],
        handler: Callable[..., Any],
        inputs: Sequence[Component] = (),
        outputs: Sequence[Any] = (),
        *,
        check: Callable[..., Sequence[str]] | None = None,
        busy_on: Component | None = None,
        quiet: bool = False,
    ) -> Any:
        """Answer an event; problems are told on the page, and its live parts look again afterwards.

        Args:
            check: says for each of ``inputs`` what is wrong with it, or "". It is said at the field, and the handler
                is called only when nothing is.
            busy_on: shows that the handler is at work.
            quiet: for handlers that are done at once.
        """
        if check is not None:
            handler, outputs = self._checked(handler, check, inputs, outputs)
        event = trigger(
            report_errors(handler),
            list(inputs),
            list(outputs),
            show_progress="hidden" if busy_on is None else "minimal",
            show_progress_on=busy_on or self.live.nowhere,
            queue=not quiet,
            api_visibility="private",
        )
        self.live.after(event)
        return event

    def go(self, button: gr.Button, tab: str | Callable[[], str]) -> None:
        """Let a button open a tab."""

        def choose() -> Any:
            return gr.Tabs(selected=tab if isinstance(tab, str) else tab())

        button.click(choose, None, self.tabs, **self.live.silent)

    def require(self, name: str, problem: Callable[[], Prerequisite | None]) -> None:
        """While there is a problem, say it here, with the one button that leads to the cure."""
        with gr.Row(elem_classes="ac-cure", visible=False) as row:
            words = gr.HTML(elem_id=f"{name}-missing")
            button = gr.Button("", elem_id=f"{name}-cure", scale=0)

        def render() -> Sequence[Any]:
            found = problem()
            if found is None:
                return gr.update(visible=False), gr.skip(), gr.skip()
            label = f"Go to {self._titles[found.tab]}"
            return gr.update(visible=True), html.notice(found.words, tone="warn"), gr.update(value=label)

        self.live.show([row, words, button], problem, render)
        self.go(button, lambda: found.tab if (found := problem()) else next(iter(self._titles)))

    def _checked(
        self,
        handler: Callable[..., Any],
        check: Callable[..., Sequence[str]],
        inputs: Sequence[Component],
        outputs: Sequence[Any],
    ) -> tuple[Callable[..., Any], list[Any]]:
        """``handler`` behind ``check``, with the fields that can say what is wrong as further outputs.

        Gradio's own ``validator=`` writes at the field too, but its words are gone with the next event of the page
        (6.31), and the live parts make one every second or two.
        """
        fields = [(place, widget) for place, widget in enumerate(inputs) if hasattr(widget, "info")]

        def checked(*values: Any) -> list[Any]:
            wrong = check(*values)
            marks = [_mark(widget, wrong[place]) for place, widget in fields]
            if any(wrong):
                named: list[Any] = list(inputs)
                words = [f"{named[place].label}: {problem}" for place, problem in enumerate(wrong) if problem]
                warn(f"Not done. {'; '.join(words)}.")
                return [*(gr.skip() for _ in outputs), *marks]
            made = handler(*values)
            made = [] if not outputs else [made] if len(outputs) == 1 else list(made)
            return [*made, *marks]

        return checked, [*outputs, *(widget for _, widget in fields)]


def _mark(widget: Any, wrong: str) -> Any:
    return gr.update(info=wrong or widget.info, elem_classes=[_WRONG] if wrong else [])
