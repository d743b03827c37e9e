"""The values of the fields of the pages, saved so that they survive a reload of the page and a restart of the program.

``Settings`` is the store, one file shared by all open pages. ``SavedFields`` connects the components of a page to it.
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
from acestep.ui import html
from acestep.ui.errors import describe_error
from acestep.ui.live import LiveUpdates

_KIND, _VERSION = "settings", 1


class Settings:
    """Values by name, in a JSON file. Safe to use from several threads.

    ``problem`` is why the file could not be written or read, "" if it could.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.problem = ""
        self.version = self.pushed = 0  # number of changes; number of changes made by the program
        self._push_of: dict[str, int] = {}  # key -> number of the push that set it last
        self._values = self._read()

    def get(self, key: str, default: Any = None) -> Any:
        with self._lock:
            return self._values.get(key, default)

    def text(self, key: str, default: str = "") -> str:
        """The value if it is a non-empty text, else the default."""
        value = self.get(key)
        return value if isinstance(value, str) and value else default

    def put(self, values: Mapping[str, Any]) -> None:
        """Save ``values`` in memory and in the file. A full disk raises no error; see ``problem``."""
        with self._lock:
            changed = {key: value for key, value in values.items() if self._values.get(key, _MISSING) != value}
            if not changed:
                return
            self._values |= changed
            self.version += 1
            try:
                write_versioned(self._path, _KIND, _VERSION, {"values": self._values})
            except StorageError as error:
                logger.warning("cannot save the settings of the page: {}", error)
                self.problem = f"What you enter is not saved. {describe_error(error)}"
            else:
                self.problem = ""

    def push(self, values: Mapping[str, Any]) -> None:
        """Save values that the program sets; open pages show them."""
        self.put(values)
        with self._lock:
            self.pushed += 1
            self._push_of |= dict.fromkeys(values, self.pushed)

    def pushed_after(self, push: int) -> dict[str, Any]:
        """The values that the program has set since that push; all saved values if ``push`` is negative."""
        with self._lock:
            return {key: value for key, value in self._values.items() if self._push_of.get(key, 0) > push}

    def _read(self) -> dict[str, Any]:
        if not self._path.exists():
            return {}
        try:
            values = read_versioned(self._path, _KIND, _VERSION, error=ConfigError).get("values")
        except ConfigError as error:
            damaged = self._path.replace(self._path.with_suffix(".damaged.json"))
            logger.warning("the saved settings cannot be read and are reset: {}", error)
            self.problem = f"The saved fields of this page could not be read and were reset. They are in {damaged}."
            return {}
        return values if isinstance(values, dict) else {}


_MISSING = object()
_IsValid = Callable[[Any], bool]


class SavedFields:
    """The components of one page whose values are saved, each under a key."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._components: dict[str, tuple[Component, _IsValid]] = {}
        self._problem = gr.HTML(visible=False, elem_id="settings-problem", elem_classes="ac-sticky")

    def add(self, key: str, component: Component, is_valid: _IsValid = lambda value: True) -> None:
        """Save the value of ``component`` from now on; a saved value that is no longer valid is not restored."""
        assert key not in self._components, f"{key} is used twice"
        assert getattr(component, "type", "") != "password", "secrets are not saved"
        self._components[key] = (component, is_valid)

    def value(self, key: str) -> Any:
        """The saved value of a field, or else its initial value."""
        component: Any = self._components[key][0]
        return self._settings.get(key, component.value)

    def wire(self, live: LiveUpdates) -> None:
        """Call last: show saved values when the page opens or the program sets them; save what the user enters."""
        shown = gr.State(0)  # the last push that this page shows
        outputs = [shown, *(component for component, _ in self._components.values())]
        live.on_load(outputs, lambda: self._update(-1))
        live.add([self._problem], lambda: self._settings.problem, self._render_problem)
        pushed = gr.Textbox("", visible="hidden")  # a gr.State fires no change event without the queue
        live.add([pushed], lambda: self._settings.pushed, lambda: [str(self._settings.pushed)])
        pushed.change(self._update, shown, outputs, **live.silent)
        for key, (component, _) in self._components.items():
            events: Any = component
            triggers = [events.input]
            if hasattr(component, "blur"):  # pasting with the mouse fires no input event
                triggers.append(events.blur)
            gr.on(triggers, self._saver(key), component, None, trigger_mode="always_last", **live.silent)

    def _update(self, shown: int) -> list[Any]:
        """Update only what the program has set, so that a field that the user is editing stays as it is."""
        now = self._settings.pushed
        new = self._settings.pushed_after(shown)
        valid = {key for key in self._components if key in new and self._is_valid(key, new[key])}
        return [now, *(gr.update(value=new[key]) if key in valid else gr.skip() for key in self._components)]

    def _is_valid(self, key: str, value: Any) -> bool:
        try:
            return self._components[key][1](value)
        except Exception:  # noqa: BLE001 - the border of a field: the others are restored
            logger.exception("the saved value of {} is ignored", key)
            return False

    def _render_problem(self) -> list[Any]:
        problem = self._settings.problem
        return [gr.update(value=html.notice(problem, tone="bad") if problem else "", visible=bool(problem))]

    def _saver(self, key: str) -> Callable[[Any], None]:
        def save(value: Any) -> None:
            self._settings.put({key: value})

        return save
