"""What the tabs of a page share: event listeners, links between tabs, prerequisites, saved fields, live panels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from acestep.ui import html
from acestep.ui.errors import warn
from acestep.ui.listeners import add_listener
from acestep.ui.live import LiveUpdates
from acestep.ui.settings import SavedFields, Settings
from acestep.ui.unconfirmed_text import UnconfirmedText

Data = dict[Component, Any]  # the values of the inputs of an event, by component
Problems = Mapping[Component, str]  # what is wrong with inputs; an input without a problem may be absent
INVALID_CLASS = "ac-invalid"


@dataclass(frozen=True, slots=True)
class Prerequisite:
    """Something that a tab needs first, and the tab that provides it."""

    message: str
    tab: str


class PageContext:
    """One page: its live panels, its saved fields and its tabs.

    Args:
        titles: the title of each tab by its id.
        prefix: begins the element ids of the tabs.
    """

    def __init__(
        self, settings: Settings, blocks: gr.Blocks, tabs: gr.Tabs, titles: Mapping[str, str], prefix: str
    ) -> None:
        self.settings, self.blocks, self.tabs = settings, blocks, tabs
        self._titles, self._prefix = titles, prefix
        self.tab: gr.Tab  # the one that is being built
        self.live, self.saved_fields = LiveUpdates(), SavedFields(settings)
        self.unconfirmed_text = UnconfirmedText(settings, self.live)

    def begin_tab(self, name: str) -> gr.Tab:
        """The tab with that id, to be used as a context manager."""
        self.tab = gr.Tab(self._titles[name], id=name, elem_id=f"{self._prefix}-tab-{name}")
        return self.tab

    def on(
        self,
        trigger: Callable[..., Any],
        listener: Callable[..., Any],
        inputs: Collection[Component] = (),
        outputs: Sequence[Any] = (),
        *,
        check: Callable[[Data], Problems] | None = None,
        busy_on: Component | None = None,
    ) -> Any:
        """Add an event listener. Its errors are shown on the page, and the live panels refresh when it has finished.

        Args:
            inputs: a set, which ``listener`` receives as one dict by component, or a list for positional arguments.
            check: validates the inputs, which must be a set. Each problem is shown at its field, and ``listener`` is
                called only without problems.
            busy_on: the component that shows progress.
        """
        if check is not None:
            assert isinstance(inputs, set)
            listener, outputs = _validated(listener, check, inputs, outputs)
        return add_listener(self.live, trigger, listener, inputs, outputs, busy_on=busy_on)

    def go_to(self, button: gr.Button, tab: str | Callable[[], str]) -> None:
        """Let a button select a tab."""

        def select() -> Any:
            return gr.Tabs(selected=tab if isinstance(tab, str) else tab())

        self.on(button.click, select, [], [self.tabs])

    def require(self, elem_id: str, missing: Callable[[], Prerequisite | None]) -> None:
        """While a prerequisite is missing, show it here with a button that selects the tab that provides it."""
        with gr.Row(elem_classes="ac-prerequisite", visible=False) as row:
            message = gr.HTML(elem_id=f"{elem_id}-missing")
            button = gr.Button("", elem_id=f"{elem_id}-go", scale=0)

        def render() -> Sequence[Any]:
            found = missing()
            if found is None:
                return gr.update(visible=False), gr.skip(), gr.skip()
            label = f"Go to {self._titles[found.tab]}"
            return gr.update(visible=True), html.notice(found.message, tone="warn"), gr.update(value=label)

        self.live.add([row, message, button], missing, render)
        self.go_to(button, lambda: found.tab if (found := missing()) else next(iter(self._titles)))

    def filter(self, key: str, choices: Sequence[str], elem_id: str, *, visible: bool = True) -> gr.Radio:
        """A saved choice between views of a table; the first one is the default."""
        radio = gr.Radio(
            choices, value=choices[0], label="Show", container=False, visible=visible, elem_id=elem_id
        )  # fmt: skip
        self.saved_fields.add(key, radio, lambda value: value in choices)
        self.on(radio.input, lambda value: self.settings.put({key: value}), [radio])
        return radio


def _validated(
    listener: Callable[..., Any],
    check: Callable[[Data], Problems],
    inputs: set[Component],
    outputs: Sequence[Any],
) -> tuple[Callable[..., Any], list[Any]]:
    """``listener`` behind ``check``, with the fields that can show a problem as further outputs.

    Gradio's own ``validator=`` marks the field too, but its message disappears with the next event of the page
    (6.31), and the live panels cause one at every poll.
    """
    fields = [component for component in inputs if hasattr(component, "info")]

    @functools.wraps(listener)
    def validated(data: Data) -> list[Any]:
        problems = check(data)
        marks = [_mark(field, problems.get(field, "")) for field in fields]
        if any(problems.values()):
            named: Mapping[Any, str] = problems
            messages = [f"{field.label}: {problem}" for field, problem in named.items() if problem]
            warn(f"Some values are invalid. {'; '.join(messages)}.")
            return [*(gr.skip() for _ in outputs), *marks]
        result = listener(data)
        values = [] if not outputs else [result] if len(outputs) == 1 else list(result)
        return [*values, *marks]

    return validated, [*outputs, *fields]


def _mark(field: Any, problem: str) -> Any:
    return gr.update(info=problem or field.info, elem_classes=[INVALID_CLASS] if problem else [])
