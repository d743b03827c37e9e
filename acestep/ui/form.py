"""Forms made from configurations: a field is declared once, its widget, its check and its message follow.

form = Form(TrainingConfig, "training", fields)
form.place("max_epochs", "batch_size")   # widgets, where they are wanted
form.rest()                              # all others; advanced ones in a closed fold
start.click(lambda *values: form.read(values), form.widgets, validator=form.check)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Generic, TypeVar, Union, get_args, get_origin

import gradio as gr
from annotated_types import Ge, Le
from gradio.components import Component
from pydantic.fields import FieldInfo

from acestep.core.config import Config, assign, choices, fields, parse
from acestep.core.errors import ConfigError
from acestep.core.registry import Registry
from acestep.ui.settings import SavedFields

C = TypeVar("C", bound=Config)

_FEW = 3  # so many choices are shown as buttons, more as a menu


class Form(Generic[C]):
    """The widgets of a configuration, and the way from their values to a checked one."""

    def __init__(
        self,
        config_type: type[C],
        prefix: str,
        saved_fields: SavedFields,
        *,
        labels: Mapping[str, Registry[Any]] | None = None,
        leave_out: Iterable[str] = (),
        defaults: Mapping[str, Any] | None = None,
        lines: Mapping[str, int] | None = None,
    ) -> None:
        """
        Args:
            prefix: begins the ids of the widgets and the names under which their values are kept.
            labels: registries with labels for the choices of fields that are declared as a ``Literal``.
            leave_out: fields that are set elsewhere.
            defaults: other values to begin with than those of the configuration.
            lines: how high the boxes of longer texts are.
        """
        self.config_type, self._prefix, self._saved_fields = config_type, prefix, saved_fields
        self._labels, self._defaults, self._lines = labels or {}, defaults or {}, lines or {}
        left_out = set(leave_out)
        self.names = [n for n, f in fields(config_type).items() if n not in left_out and not _is_group(f)]
        self._widgets: dict[str, Component] = {}

    def key(self, name: str) -> str:
        """Under which the value of a field is kept."""
        return f"{self._prefix}.{name}"

    def widget(self, name: str) -> Component:
        return self._widgets[name]

    @property
    def widgets(self) -> list[Component]:
        """In the order of ``names``: the inputs of an event that calls ``read`` or ``check``."""
        return [self._widgets[name] for name in self.names]

    @property
    def current(self) -> list[Any]:
        """The values that stand in the widgets, as far as they are kept, in the order of ``names``."""
        return [self._saved_fields.value(self.key(name)) for name in self.names]

    def place(self, *names: str, wide: bool = False) -> None:
        """Make the widgets of these fields here, beside each other as far as there is room."""
        with gr.Row(elem_classes=["ac-grid", "ac-wide"] if wide else "ac-grid"):
            for name in names:
                self._make(name)

    def rest(self, label: str = "Advanced", *, folded: bool = False) -> None:
        """Make all widgets that are not there yet; those of advanced fields, or all if ``folded``, in a closed fold."""
        left = [name for name in self.names if name not in self._widgets]
        advanced = [name for name in left if folded or _extra(fields(self.config_type)[name], "advanced")]
        plain = [name for name in left if name not in advanced]
        if plain:
            self.place(*plain)
        if advanced:
            with gr.Accordion(label, open=False, elem_classes="ac-fold", elem_id=self._id("advanced")):
                self.place(*advanced)

    def read(self, values: Sequence[Any], **others: Any) -> C:
        """The configuration of the widgets' values; ``others`` are the fields that were left out.

        Raises:
            ConfigError: with every problem at once.
        """
        return parse(self.config_type, {**self.plain(values), **others})

    def plain(self, values: Sequence[Any]) -> dict[str, Any]:
        """Values by field name, an empty box as None where the field may be empty."""
        told = dict(zip(self.names, values, strict=True))
        return {name: _or_none(fields(self.config_type)[name], value) for name, value in told.items()}

    def check(self, *values: Any) -> list[str]:
        """What is wrong with each value, "" if nothing. Values behind those of the form pass."""
        answers = [self.problem(name, value) for name, value in zip(self.names, values, strict=False)]
        return [*answers, *("" for _ in values[len(answers) :])]

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with one value, "" if nothing."""
        try:
            assign(self.config_type.model_construct(), name, _or_none(fields(self.config_type)[name], value))
        except ConfigError as error:
            return "; ".join(problem.removeprefix(f"{name} ").capitalize() for problem in error.problems)
        return ""

    def to_saved(self, config: Config) -> dict[str, Any]:
        """The values of ``config`` by the names under which they are kept."""
        return {self.key(name): self.displayed(name, getattr(config, name)) for name in self.names}

    def displayed(self, name: str, value: Any) -> Any:
        """What the widget of a field holds for ``value``."""
        return _display(fields(self.config_type)[name], value)

    def _make(self, name: str) -> None:
        field = fields(self.config_type)[name]
        default = self._defaults.get(name, None if field.is_required() else field.get_default())
        widget = _widget(field, _display(field, default), self._id(name), self._labels.get(name), self._lines.get(name))
        self._widgets[name] = self._saved_fields.add(
            self.key(name), widget, lambda value: not self.problem(name, value)
        )

    def _id(self, name: str) -> str:
        return f"{self._prefix}-{name}".replace("_", "-").replace(".", "-")


def _widget(field: FieldInfo, value: Any, elem_id: str, labels: Registry[Any] | None, lines: int | None) -> Component:
    unit = _extra(field, "unit")
    about: dict[str, Any] = {
        "label": f"{field.title} ({unit})" if unit else field.title,
        "info": field.description,
        "elem_id": elem_id,
        "value": value,
        "min_width": 200,
    }
    kind, may_be_empty = _kind(field)
    if may_be_empty and kind in (int, float):  # gradio's box for numbers shows 0 for nothing
        return gr.Textbox(placeholder="automatic", **about)
    if valid := choices(field):
        options = [
            (labels[value].label if labels and value in labels else label, value) for value, label in valid.items()
        ]
        return gr.Radio(options, **about) if len(options) <= _FEW else gr.Dropdown(options, **about)
    if kind is bool:
        return gr.Checkbox(**about)
    if kind is int and unit == "%":
        return gr.Slider(_limit(field, Ge), _limit(field, Le), step=5, **about)
    if kind in (int, float):  # no limits here: gradio would refuse without saying which field
        return gr.Number(precision=0 if kind is int else None, **about)
    return gr.Textbox(lines=lines or 1, max_lines=3 * lines if lines else 1, **about)


def _limit(field: FieldInfo, kind: type[Ge] | type[Le]) -> float:
    limit: Any = next(limit for limit in field.metadata if isinstance(limit, kind))
    return float(limit.ge if kind is Ge else limit.le)


def _kind(field: FieldInfo) -> tuple[Any, bool]:
    """The type of a field without None, and whether it may be None."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return kinds[0], len(kinds) < len(get_args(annotation))
    return annotation, False


def _or_none(field: FieldInfo, value: Any) -> Any:
    return None if value == "" and _kind(field)[1] else value


def _display(field: FieldInfo, value: Any) -> Any:
    kind, may_be_empty = _kind(field)
    if value is None:
        return ""
    if may_be_empty and kind in (int, float):
        return f"{value:g}"
    if isinstance(value, dict):  # such fields read JSON text
        return json.dumps(value) if value else ""
    return str(value) if isinstance(value, Path) else value


def _extra(field: FieldInfo, name: str) -> Any:
    extra = field.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Config)
