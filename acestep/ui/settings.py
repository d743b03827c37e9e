"""The values of the fields of the pages, saved so that they survive a reload of the page and a restart of the program.

``Settings`` is the store, one file shared by all open pages. ``SavedFields`` connects the components of a page to it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from loguru import logger

from acestep.core import renames
from acestep.core.errors import ConfigError, StorageError
from acestep.core.files import read_versioned, write_versioned
from acestep.ui import html
from acestep.ui.errors import describe_error
from acestep.ui.live import LiveUpdates

_KIND, _VERSION = "settings", 1
_MAX_TEXT_LENGTH = 100_000


class Settings:
    """Values by name, in a JSON file, and which of them a person has entered. Safe to use from several threads.

    ``problem`` is why the file could not be written or read, "" if it could. ``dropped`` describes saved values that
    did not fit their field, by key, until the field is set again.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self.problem = ""
        self.dropped: dict[str, str] = {}
        self.version = 0  # number of changes
        self.pushed = int(time.time())  # number of the latest change by the program; also increases with each start
        self._push_of: dict[str, int] = {}  # key -> number of the push that set it last
        self._before_suggestion: dict[str, Any] = {}  # key -> what the field showed, if the last push was a suggestion
        self._has_marks = False  # whether the file says which values were entered
        self._values, self._entered = self._read()

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
            self._store(values)

    def drop(self, descriptions: Mapping[str, str]) -> None:
        """Forget the values of these keys; the page shows the descriptions."""
        with self._lock:
            for key in descriptions:
                self._values.pop(key, None)
            self._entered -= descriptions.keys()
            self.dropped |= descriptions
            self._save()

    def push(
        self, values: Mapping[str, Any], *, entered: bool | None = None, shown: Mapping[str, Any] | None = None
    ) -> None:
        """Save values that the program sets; open pages show them.

        Args:
            entered: whether the values count as entered by a person from now on; None keeps what they are.
            shown: what the fields show at the moment, if a value that somebody enters meanwhile wins (``enter``).
        """
        with self._lock:
            self._push(values, entered)
            for key in values:
                self._before_suggestion.pop(key, None)
            self._before_suggestion |= {key: value for key, value in (shown or {}).items() if key in values}

    def suggest(self, values: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
        """Push recommended values, but only into fields without a value that a person has entered.

        Args:
            shown: what the fields show at the moment.
        """
        with self._lock:
            free = {key: value for key, value in values.items() if key not in self._entered and shown[key] != value}
            if free:
                self._push(free, None)
                self._before_suggestion |= {key: shown[key] for key in free}

    def enter(self, key: str, value: Any, *, shown_push: int, default: Any) -> None:
        """Save what a person has entered in a field of a page.

        The message of a page can arrive after a push that the page did not show yet. What the user has loaded then
        wins over what was in the field before; what is entered wins over a preset or a suggestion.

        Args:
            shown_push: the last push that the page showed when it sent the value.
            default: the value of a field that was never saved.
        """
        with self._lock:
            if self._push_of.get(key, 0) <= shown_push:
                known = self._values.get(key, default)
                unchanged = value == known or (value in (None, "") and known in (None, ""))
                if not unchanged:  # leaving a field sends its value again
                    self._has_marks = True
                    self._store({key: value}, True)
            elif value != self._before_suggestion.get(key, value):
                self._push({key: value}, True)

    def is_entered(self, key: str) -> bool:
        """Whether a person has entered the value, on the page or in a profile."""
        with self._lock:
            return key in self._entered

    def pushed_after(self, push: int) -> dict[str, Any]:
        """The values that the program has set since that push; all saved values if ``push`` is negative."""
        with self._lock:
            return {key: value for key, value in self._values.items() if self._push_of.get(key, 0) > push}

    def _push(self, values: Mapping[str, Any], entered: bool | None) -> None:
        self._has_marks = True
        self._store(values, entered)
        self.pushed += 1
        self._push_of |= dict.fromkeys(values, self.pushed)

    def _store(self, values: Mapping[str, Any], entered: bool | None = None) -> None:
        changed = {key: value for key, value in values.items() if self._values.get(key, _MISSING) != value}
        marked = {None: self._entered, True: self._entered | values.keys(), False: self._entered - values.keys()}
        if not changed and marked[entered] == self._entered:
            return
        self._values |= changed
        self._entered = marked[entered]
        for key in changed:
            self.dropped.pop(key, None)
        self._save()

    def _save(self) -> None:
        self.version += 1
        content: dict[str, Any] = {"values": self._values}
        if self._has_marks:
            content["entered"] = sorted(self._entered)
        try:
            write_versioned(self._path, _KIND, _VERSION, content)
        except StorageError as error:
            logger.warning("cannot save the settings of the page: {}", error)
            self.problem = f"What you enter is not saved. {describe_error(error)}"
        else:
            self.problem = ""

    def _read(self) -> tuple[dict[str, Any], set[str]]:
        """The values and the keys of those that were entered: all of them in a file of an earlier version."""
        if not self._path.exists():
            return {}, set()
        try:
            content = read_versioned(self._path, _KIND, _VERSION, error=ConfigError)
        except ConfigError as error:
            damaged = self._path.with_suffix(".damaged.json")
            renames.replace(self._path, damaged)
            logger.warning("the saved settings cannot be read and are reset: {}", error)
            self.problem = f"The saved fields of this page could not be read and were reset. They are in {damaged}."
            return {}, set()
        values, entered = content.get("values"), content.get("entered")
        values = values if isinstance(values, dict) else {}
        self._has_marks = isinstance(entered, list)
        return values, {key for key in values if not isinstance(entered, list) or key in entered}


_MISSING = object()
_IsValid = Callable[[Any], bool]


class SavedFields:
    """The components of one page whose values are saved, each under a key."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._components: dict[str, tuple[Component, _IsValid]] = {}
        self._converters: dict[str, Callable[[Any], Any]] = {}
        self._saved_elsewhere: set[str] = set()
        self._problem = gr.HTML(visible=False, elem_id="settings-problem", elem_classes="ac-sticky")

    def add(
        self,
        key: str,
        component: Component,
        is_valid: _IsValid = lambda value: True,
        *,
        convert: Callable[[Any], Any] | None = None,
        saves: bool = True,
    ) -> None:
        """Save the value of ``component`` from now on; a saved value that is no longer valid is not restored.

        Args:
            convert: gives the present form of a value that an earlier version saved.
            saves: False if a listener of the page itself saves what a person enters.
        """
        assert key not in self._components, f"{key} is used twice"
        assert getattr(component, "type", "") != "password", "secrets are not saved"
        self._components[key] = (component, is_valid)
        if convert is not None:
            self._converters[key] = convert
        if not saves:
            self._saved_elsewhere.add(key)

    def value(self, key: str) -> Any:
        """The saved value of a field, or else its initial value; None for an unknown key."""
        return self._settings.get(key, self._default(key))

    def label(self, key: str) -> str:
        """The label of a field; the key itself if there is no such field."""
        component: Any = self._components[key][0] if key in self._components else None
        return str(getattr(component, "label", None) or key)

    def choice_label(self, key: str, value: Any) -> Any:
        """The label that a field shows for a value that is one of its choices; else the value itself."""
        component: Any = self._components[key][0] if key in self._components else None
        return next((label for label, known in getattr(component, "choices", []) if known == value), value)

    def suggest(self, values: Mapping[str, Any]) -> None:
        """Set recommended values in the fields in which nobody has entered a value."""
        self._settings.suggest(values, {key: self.value(key) for key in values})

    def _default(self, key: str) -> Any:
        component: Any = self._components[key][0] if key in self._components else None
        return getattr(component, "value", None)

    def wire(self, live: LiveUpdates) -> None:
        """Call last: show saved values when the page opens or the program sets them; save what the user enters.

        A saved value that its field cannot show is dropped, and the page says so.
        """
        saved = {key: self._settings.get(key, _MISSING) for key in self._converters}
        self._settings.put({k: self._converters[k](value) for k, value in saved.items() if value is not _MISSING})
        self._update("-1")  # drops values that no longer fit, before the panels use them
        # The last push that this page shows. A component sends what the browser shows at the moment of an event.
        shown = gr.Textbox("0", visible="hidden")
        outputs = [shown, *(component for component, _ in self._components.values())]
        live.on_load(outputs, lambda: self._update("-1"))
        live.add([self._problem], self._problems, self._render_problem)
        pushed = gr.Textbox("", visible="hidden")  # a gr.State fires no change event without the queue
        live.add([pushed], lambda: self._settings.pushed, lambda: [str(self._settings.pushed)])
        pushed.change(self._update, shown, outputs, **live.silent)
        for key, (component, _) in self._components.items():
            if key in self._saved_elsewhere:
                continue
            events: Any = component
            triggers = [events.input]
            if hasattr(component, "blur"):  # pasting with the mouse fires no input event
                triggers.append(events.blur)
            gr.on(triggers, self._saver(key), [component, shown], None, trigger_mode="always_last", **live.silent)

    def _update(self, shown: Any) -> list[Any]:
        """Update only what the program has set, so that a field that the user is editing stays as it is."""
        now = self._settings.pushed
        new = self._settings.pushed_after(_push_number(shown))
        valid = {key for key in self._components if key in new and self._is_valid(key, new[key])}
        if invalid := [key for key in self._components if key in new and key not in valid]:
            self._settings.drop({key: self._describe(key, new[key]) for key in invalid})
        return [str(now), *(gr.update(value=new[key]) if key in valid else gr.skip() for key in self._components)]

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

    def _saver(self, key: str) -> Callable[[Any, Any], None]:
        def save(value: Any, shown: Any) -> None:
            self._settings.enter(key, value, shown_push=_push_number(shown), default=self._default(key))

        return save


def _push_number(shown: Any) -> int:
    """The number that the hidden field of a page sends, 0 if it is none."""
    try:
        return int(shown)
    except (TypeError, ValueError, OverflowError):
        return 0


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
