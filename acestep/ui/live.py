"""Parts of a page that show what the server knows, painted again when that has changed and only then.

Nothing a page shows is kept in the page: a reloaded page, a second one and one that was away catch up with the next
look. A part says its state as a value to compare; as long as that is the same, nothing is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

POLL_INTERVAL_S = 1.5


@dataclass(frozen=True, slots=True)
class _Part:
    outputs: list[Any]
    version: Callable[[], Hashable]
    render: Callable[[], Sequence[Any]]


class LiveUpdates:
    """The live parts of one page."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []
        self._first: tuple[list[Any], Callable[[], Sequence[Any]]] = [], list
        self._waiting: list[Callable[..., Any]] = []
        self._seen = gr.State({})  # part -> version that this page shows
        self.nowhere = gr.HTML(visible="hidden")

    @property
    def silent(self) -> dict[str, Any]:
        """Settings of an event that nobody shall notice.

        Its progress is shown on something hidden: gradio 6.31 writes the state of every event that ever showed its
        progress at a field to that field whenever anything happens, and wipes what a check has written there.
        """
        return {
            "queue": False,
            "show_progress": "hidden",
            "show_progress_on": self.nowhere,
            "api_visibility": "private",
        }

    def show(
        self, outputs: Sequence[Any], version: Callable[[], Hashable], render: Callable[[], Sequence[Any]]
    ) -> None:
        """``paint`` gives a value for each of ``outputs``; it is called when ``version`` has changed."""
        self._parts.append(_Part(list(outputs), version, render))

    def begin(self, outputs: Sequence[Any], render: Callable[[], Sequence[Any]]) -> None:
        """Paint these once, in the same moment as all parts, when the page opens."""
        self._first = list(outputs), render

    def wire(self, blocks: gr.Blocks) -> None:
        """Call last: paint everything when the page opens, then look every second or two."""
        outputs = self._outputs
        first, render = self._first
        blocks.load(lambda: [*self._render({}), *render()], None, [*outputs, *first], **self.silent)
        gr.Timer(POLL_INTERVAL_S).tick(self._render, self._seen, outputs, trigger_mode="once", **self.silent)
        for trigger in self._waiting:
            trigger(self._render, self._seen, outputs, **self.silent)

    def after(self, event: Any) -> None:
        """Look at once when ``event`` is done, whether it went well or not."""
        self._waiting.append(event.then)

    @property
    def _outputs(self) -> list[Any]:
        return [self._seen, *(output for part in self._parts for output in part.outputs)]

    def _render(self, seen: dict[int, Hashable]) -> Any:
        now = {number: part.version() for number, part in enumerate(self._parts)}
        if now == seen:
            return gr.skip()
        updates: list[Any] = [now]
        for number, part in enumerate(self._parts):
            if seen.get(number, _NEVER) == now[number]:
                updates += [gr.skip()] * len(part.outputs)
            else:
                painted = list(part.render())
                assert len(painted) == len(part.outputs)
                updates += painted
        return updates


_NEVER = object()
