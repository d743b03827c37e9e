"""All event listeners of both pages, and how their messages reach the page.

Run ``python -m dev.event_listeners`` to print them as Markdown tables.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from acestep.ui.errors import report_errors
from acestep.ui.workspace import Workspace

TOAST = "toast, through the queue"
PANEL = "in the panel that cannot be updated"
SAVED = "saves silently; a full disk is shown at the end of the page"
EDITED = "in the line below the fields of the song"
FILLED = "none: fills fields with saved values"
BROWSER = "none: runs in the browser"
REFRESH = "none: refreshes the panels"
LOST = "lost"

# The listeners that show no message of their own.
SILENT = {
    "LiveUpdates._poll": PANEL,
    "LiveUpdates.wire.<locals>.render_all": PANEL,
    "SavedFields._saver.<locals>.save": SAVED,
    "UnconfirmedText._use": FILLED,
    "UnconfirmedText.add.<locals>.forget": SAVED,
    "UnconfirmedText.add.<locals>.hold": SAVED,
    "SavedFields._update": FILLED,
    "SongEditor._dropdown_typist.<locals>.hold_choice": EDITED,
    "SongEditor._on_refresh": FILLED,
    "SongEditor._typist.<locals>.hold": EDITED,
}
_HEADERS = ("Component", "Event", "Function", "Messages")


@dataclass(frozen=True, slots=True)
class EventListener:
    """One listener: the ``elem_id`` or the type of its component, its event, its function, and its messages."""

    component: str
    event: str
    function: str
    delivery: str
    number: int
    after: int | None  # the number of the listener that starts this one


def event_listeners(blocks: gr.Blocks) -> list[EventListener]:
    """The listeners of a page, one for each component that triggers it."""
    found = []
    for listener in blocks.fns.values():
        name = getattr(listener.fn, "__qualname__", "")
        for target, event in listener.targets:
            component = _component(blocks, target)
            found.append(
                EventListener(component, event, name, _delivery(listener), listener._id, listener.trigger_after)
            )
    return found


def _component(blocks: gr.Blocks, target: int | None) -> str:
    block: Any = blocks.blocks.get(target) if target is not None else None
    return getattr(block, "elem_id", None) or type(block or blocks).__name__


def _delivery(listener: Any) -> str:
    if listener.fn is None:
        return BROWSER if listener.trigger_after is None else REFRESH
    if _is_wrapped_by(report_errors, listener.fn):
        return TOAST if listener.queue else LOST
    return SILENT.get(listener.fn.__qualname__, LOST)


def _is_wrapped_by(decorator: Callable[..., Any], function: Any) -> bool:
    """Whether ``decorator`` made that function: all of them have the same code."""
    return getattr(function, "__code__", None) is decorator(_nothing).__code__


def _nothing() -> None:
    """For a decorator."""


def pages(workspace: Path) -> Iterator[tuple[str, gr.Blocks]]:
    """Both pages by name, not served."""
    from acestep.ui.captioner import app as captioner
    from acestep.ui.captioner.app_state import AppState as CaptionerState
    from acestep.ui.trainer import app as trainer
    from acestep.ui.trainer.app_state import AppState as TrainerState

    yield trainer.TITLE, trainer.build(TrainerState(Workspace(workspace)))
    yield captioner.TITLE, captioner.build(CaptionerState(Workspace(workspace)))


def markdown(listeners: list[EventListener]) -> str:
    """A table of the listeners. Those that every field and every listener has are counted in one row."""
    rows: list[tuple[str, ...]] = []
    groups: Counter[tuple[str, ...]] = Counter()
    for each in listeners:
        if each.delivery == SAVED or each.after is not None:
            groups[each.event, each.function, each.delivery] += 1
        else:
            rows.append((each.component, each.event, each.function, each.delivery))
    rows += [(f"{count} components", *cells) for cells, count in groups.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (_HEADERS, ("---",) * len(_HEADERS), *rows))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("GRADIO_TEMP_DIR", folder)
        for title, blocks in pages(Path(folder)):
            listeners = event_listeners(blocks)
            print(f"## {title}\n\n{markdown(listeners)}\n")  # noqa: T201 - a command


if __name__ == "__main__":
    main()
