"""Event listeners of the pages. They go through Gradio's queue, because only then do their messages reach the page.

For a listener with ``queue=False``, Gradio 6.31 prints ``gr.Info`` to the terminal and hides the toast of an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import gradio as gr
from gradio.components import Component

from acestep.ui.errors import report_errors
from acestep.ui.live import LiveUpdates

TriggerMode = Literal["once", "always_last", "multiple"]

_ONCE = ("click", "load", "submit")
_ALWAYS_LAST = ("change", "input", "release")


def add_listener(
    live: LiveUpdates,
    trigger: Callable[..., Any],
    listener: Callable[..., Any],
    inputs: Collection[Component] = (),
    outputs: Sequence[Any] = (),
    *,
    busy_on: Component | None = None,
) -> Any:
    """Add an event listener. Its errors are shown on the page, and the live panels refresh when it has finished.

    Args:
        inputs: a set, which ``listener`` receives as one dict by component, or a list for positional arguments.
        busy_on: the component that shows progress.
    """
    mode = _trigger_mode(trigger)
    event = trigger(
        report_errors(_with_text(listener, inputs)),
        inputs if isinstance(inputs, set) else list(inputs),
        list(outputs),
        show_progress="hidden" if busy_on is None else "minimal",
        show_progress_on=busy_on or live.hidden,
        trigger_mode=mode,
        concurrency_limit=1 if mode == "multiple" else None,  # 1 keeps the order; None: nobody waits for anybody
        api_visibility="private",
    )
    live.after(event)
    return event


def _with_text(listener: Callable[..., Any], inputs: Collection[Component]) -> Callable[..., Any]:
    """``listener`` with "" for an empty text box, for which clients of the API can send null."""
    boxes = list(inputs)

    def text(component: Component, value: Any) -> Any:
        return "" if value is None and isinstance(component, gr.Textbox) else value

    @functools.wraps(listener)
    def wrapper(*values: Any) -> Any:
        if isinstance(inputs, set) and values:
            return listener({box: text(box, value) for box, value in values[0].items()}, *values[1:])
        own = [text(box, value) for box, value in zip(boxes, values, strict=False)]
        return listener(*own, *values[len(own) :])

    return wrapper


def _trigger_mode(trigger: Any) -> TriggerMode:
    """What Gradio does with an event while the listener is still busy with the previous one.

    A second click is ignored. Of several values, the last one counts. An event that carries data, such as the
    selected row of a table, is handled each time.
    """
    name = getattr(trigger, "event_name", "")  # custom events have none
    if name in _ONCE or isinstance(getattr(trigger, "__self__", None), gr.Tab):
        return "once"
    return "always_last" if name in _ALWAYS_LAST else "multiple"
