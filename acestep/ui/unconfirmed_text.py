"""Saves the text of dropdowns while it is typed: Gradio 6.31 sends no ``input`` event until the field is left."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr

from acestep.ui.live import LiveUpdates
from acestep.ui.settings import Settings


class UnconfirmedText:
    """The dropdowns of a page in which text can be typed, each with the key of its setting.

    The text is saved beside the setting, whose panel would change the field, and becomes its value when a page opens.
    """

    def __init__(self, settings: Settings, live: LiveUpdates) -> None:
        self._settings, self._live = settings, live
        self._keys: set[str] = set()
        self._text = gr.Textbox("", visible="hidden")  # takes the text from the browser

    def add(self, key: str, dropdown: gr.Dropdown, choices: Callable[[], Iterable[tuple[str, str]]]) -> None:
        """Save what is typed into ``dropdown``.

        Args:
            choices: labels and values, as in ``gr.Dropdown``.
        """

        def hold(current: str | None, text: str) -> None:
            value = dict(choices()).get(text, text)
            self._settings.put({_unconfirmed(key): None if value == (current or "") else value})

        def forget() -> None:
            self._settings.put({_unconfirmed(key): None})

        self._keys.add(key)
        self._use()
        options: dict[str, Any] = {"trigger_mode": "always_last", **self._live.silent}
        dropdown.key_up(hold, [dropdown, self._text], None, js=read_text(dropdown), **options)
        dropdown.input(forget, None, None, **options)

    def wire(self, blocks: gr.Blocks) -> None:
        """Call last: use the text of fields that were not left when the page was closed."""
        blocks.load(self._use, None, None, **self._live.silent)

    def _use(self) -> None:
        """Set the settings of fields that were not left."""
        for key in self._keys:
            text = self._settings.get(_unconfirmed(key))
            if isinstance(text, str):
                self._settings.put({key: text, _unconfirmed(key): None})


def read_text(dropdown: gr.Dropdown) -> str:
    """JavaScript that replaces the second of two inputs by the text in a dropdown.

    ``gr.KeyUpData`` has the text, but for ``always_last``, Gradio 6.31 sends that of the first key again.
    """
    return f"(first, _) => [first, document.querySelector('#{dropdown.elem_id} input')?.value ?? '']"


def _unconfirmed(key: str) -> str:
    return f"{key}.unconfirmed"
