"""What was typed into the pages: kept on the computer that runs the program, so that a reload or a restart loses none.

``Settings`` is the store, one file shared by all open pages. ``Fields`` ties the widgets of a page to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from loguru import logger

from acestep.core.errors import ConfigError, StorageError
from acestep.core.files import read_versioned, write_versioned
from acestep.ui.live import LiveUpdates

_KIND, _VERSION = "settings", 1


class Settings:
    """Values by name, in a JSON file. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.version = self.pushed = 0  # number of changes; of those that were not typed into a page
        self._push_of: dict[str, int] = {}  # key -> the push that set it last
        self._values = self._read()

    def get(self, key: str, default: Any = None) -> Any:
        with self._lock:
            return self._values.get(key, default)

    def text(self, key: str, default: str = "") -> str:
        """The value as text; the default if there is none."""
        value = self.get(key)
        return value if isinstance(value, str) and value else default

    def put(self, values: Mapping[str, Any]) -> None:
        """Keep ``values``, now and in the file. A disk that is full does not stop the work on the page."""
        with self._lock:
            changed = {key: value for key, value in values.items() if self._values.get(key, _MISSING) != value}
            if not changed:
                return
            self._values |= changed
            self.version += 1
            try:
                write_versioned(self._path, _KIND, _VERSION, {"values": self._values})
            except StorageError as error:
                logger.warning("settings are not saved: {}", error)

    def push(self, values: Mapping[str, Any]) -> None:
        """Keep values that the program sets: open pages take them over."""
        self.put(values)
        with self._lock:
            self.pushed += 1
            self._push_of |= dict.fromkeys(values, self.pushed)

    def pushed_after(self, push: int) -> dict[str, Any]:
        """The values that the program has set since then; all that are kept, if ``push`` is negative."""
        with self._lock:
            return {key: value for key, value in self._values.items() if self._push_of.get(key, 0) > push}

    def _read(self) -> dict[str, Any]:
        if not self._path.exists():
            return {}
        try:
            values = read_versioned(self._path, _KIND, _VERSION, error=ConfigError).get("values")
        except ConfigError as error:
            logger.warning("settings start afresh: {}", error)
            self._path.replace(self._path.with_suffix(".damaged.json"))
            return {}
        return values if isinstance(values, dict) else {}


_MISSING = object()
_Check = Callable[[Any], bool]


class SavedFields:
    """The widgets of one page whose values are kept, each under a name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._widgets: dict[str, tuple[Component, _Check]] = {}

    def add(self, key: str, widget: Component, fits: _Check = lambda value: True) -> Any:
        """Keep the value of ``widget``. A stored value that no longer ``fits`` gives way to the default.

        Returns the widget, so that it can be made and added in one line.
        """
        assert key not in self._widgets, f"{key} is used twice"
        assert getattr(widget, "type", "") != "password", "secrets are not kept"
        self._widgets[key] = (widget, fits)
        return widget

    def widgets(self, *keys: str) -> list[Component]:
        return [self._widgets[key][0] for key in keys]

    def value(self, key: str) -> Any:
        """What stands in a field: what is kept, or else what it begins with."""
        widget: Any = self._widgets[key][0]
        return self._settings.get(key, widget.value)

    def wire(self, live: LiveUpdates) -> None:
        """Call last: fill the page when it opens and when the program changes a value; keep what is typed into it."""
        shown = gr.State(0)  # the last push that this page has taken over
        outputs = [shown, *(widget for widget, _ in self._widgets.values())]
        live.begin(outputs, lambda: self._take_over(-1))
        pushed = gr.Textbox("", visible="hidden")  # a State would tell no one of its change when it is not queued
        live.show([pushed], lambda: self._settings.pushed, lambda: [str(self._settings.pushed)])
        pushed.change(self._take_over, shown, outputs, **live.silent)
        for key, (widget, _) in self._widgets.items():
            any_widget: Any = widget
            triggers = [any_widget.input]
            if hasattr(widget, "blur"):  # what is pasted with the mouse is no input to gradio
                triggers.append(any_widget.blur)
            gr.on(triggers, self._keeper(key), widget, None, trigger_mode="always_last", **live.silent)

    def _take_over(self, shown: int) -> list[Any]:
        """Only what the program has set: a field that somebody is typing into is left alone."""
        now = self._settings.pushed
        new = self._settings.pushed_after(shown)
        fitting = {key for key, (_, fits) in self._widgets.items() if key in new and fits(new[key])}
        return [now, *(gr.update(value=new[key]) if key in fitting else gr.skip() for key in self._widgets)]

    def _keeper(self, key: str) -> Callable[[Any], None]:
        def keep(value: Any) -> None:
            self._settings.put({key: value})

        return keep
