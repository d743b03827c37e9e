"""The values of the fields of the pages, saved so that they survive a reload of the page and a restart of the program.

``Settings`` is the store, one file shared by all open pages. ``SavedFields`` connects the components of a page to it.
"""

from __future__ import annotations

import math
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
_MAX_TEXT_LENGTH = 100_000


class Settings:
    """Values by name, in a JSON file. Safe to use from several threads.

    ``problem`` is why the file could not be written or read, "" if it could. ``dropped`` describes saved values that
    did not fit their field, by key, until the field is set again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.problem = ""
        self.dropped: dict[str, str] = {}
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
            for key in changed:
                self.dropped.pop(key, None)
            self._save()

    def drop(self, descriptions: Mapping[str, str]) -> None:
        """Forget the values of these keys; the page shows the descriptions."""
        with self._lock:
            for key in descriptions:
                self._values.pop(key, None)
            self.dropped |= descriptions
            self._save()

    def _save(self) -> None:
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
        """Call last: show saved values when the page opens or the program sets them; save what the user enters.

        A saved value that its field cannot show is dropped, and the page says so.
        """
        self._update(-1)  # drops values that no longer fit, before the panels use them
        shown = gr.State(0)  # the last push that this page shows
        outputs = [shown, *(component for component, _ in self._components.values())]
        live.on_load(outputs, lambda: self._update(-1))
        live.add([self._problem], self._problems, self._render_problem)
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
        if invalid := [key for key in self._components if key in new and key not in valid]:
            self._settings.drop({key: self._describe(key, new[key]) for key in invalid})
        return [now, *(gr.update(value=new[key]) if key in valid else gr.skip() for key in self._components)]

    def _is_valid(self, key: str, value: Any) -> bool:
        component, is_valid = self._components[key]
        try:
            return _can_show(component, value) and is_valid(value)
        except Exception:  # noqa: BLE001 - the border of a field: the others are restored
            logger.exception("the saved value of {} is ignored", key)
            return False

    def _describe(self, key: str, value: Any) -> str:
        component: Any = self._components[key][0]
        return f"{component.label or key}: {html.shorten(repr(value), 60)}"

    def _problems(self) -> tuple[str, ...]:
        return (self._settings.problem, *self._settings.dropped.values())

    def _render_problem(self) -> list[Any]:
        problem, *dropped = self._problems()
        notices = [html.notice(problem, tone="bad")] if problem else []
        if dropped:
            notices.append(html.notice("Saved values that do not fit their fields were reset", dropped, "warn"))
        return [gr.update(value="".join(notices), visible=bool(notices))]

    def _saver(self, key: str) -> Callable[[Any], None]:
        def save(value: Any) -> None:
            self._settings.put({key: value})

        return save


def _can_show(component: Component, value: Any) -> bool:
    """Whether a component can show a saved value. A single one that it cannot show would leave the page empty."""
    if value is None:
        return True
    if isinstance(component, gr.Checkbox):
        return isinstance(value, bool)
    if isinstance(component, gr.Number | gr.Slider):
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_number(value)
    if isinstance(value, str):
        return len(value) <= _MAX_TEXT_LENGTH and not any("\ud800" <= letter <= "\udfff" for letter in value)
    return isinstance(value, bool | int | float) and _is_number(value)


def _is_number(value: float) -> bool:
    """Whether JSON for the browser can hold it: finite, and integers in 64 bits."""
    return -(2**63) <= value < 2**63 if isinstance(value, int) else math.isfinite(value)
