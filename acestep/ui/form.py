"""Forms generated from configs: a field is declared once; its component, validation and messages follow from it.

form = Form(TrainingConfig, "training", page.saved_fields)
form.place("max_epochs", "batch_size")   # these components here
form.place_rest()                        # all others; advanced ones in a collapsed section
page.on(start.click, lambda data: form.read(data), form.inputs, check=form.check)
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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
from acestep.ui import layout
from acestep.ui.settings import SavedFields

C = TypeVar("C", bound=Config)
Data = Mapping[Component, Any]

_MAX_RADIO_OPTIONS = 3  # more become a dropdown


class Form(Generic[C]):
    """The components of a config, and the way from their values to a validated config."""

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
            prefix: begins the element ids of the components and the keys of their saved values.
            labels: registries with labels for the choices of fields that are declared as a ``Literal``.
            leave_out: fields that are set elsewhere.
            defaults: initial values that differ from those of the config.
            lines: the number of lines of multi-line text fields.
        """
        self.config_type, self._prefix, self._saved_fields = config_type, prefix, saved_fields
        self._labels, self._defaults, self._lines = labels or {}, defaults or {}, lines or {}
        left_out = set(leave_out)
        self.names = [n for n, f in fields(config_type).items() if n not in left_out and not _is_group(f)]
        self._components: dict[str, Component] = {}

    def key(self, name: str) -> str:
        """The key under which the value of a field is saved."""
        return f"{self._prefix}.{name}"

    def component(self, name: str) -> Component:
        return self._components[name]

    @property
    def inputs(self) -> set[Component]:
        """All components: the inputs of an event that calls ``read`` or ``check``."""
        return set(self._components.values())

    @property
    def saved(self) -> dict[Component, Any]:
        """The saved values, or else the initial ones, by component."""
        return {self._components[name]: self._saved_fields.value(self.key(name)) for name in self.names}

    def place(self, *names: str, wide: bool = False) -> None:
        """Create the components of these fields here, side by side as far as there is room."""
        with gr.Row(elem_classes=["ac-grid", "ac-wide"] if wide else "ac-grid"):
            for name in names:
                self._create(name)

    def place_rest(self, label: str = "Advanced", *, collapsed: bool = False) -> None:
        """Create all components that do not exist yet; advanced ones, or all if ``collapsed``, in a section."""
        left = [name for name in self.names if name not in self._components]
        advanced = [name for name in left if collapsed or _extra(fields(self.config_type)[name], "advanced")]
        plain = [name for name in left if name not in advanced]
        if plain:
            self.place(*plain)
        if advanced:
            with layout.section(label, self._id("advanced")):
                self.place(*advanced)

    def read(self, data: Data, **others: Any) -> C:
        """The config with the values of the components; ``others`` are the fields that were left out.

        Raises:
            ConfigError: with all problems at once.
        """
        return parse(self.config_type, {**self.values(data), **others})

    def values(self, data: Data) -> dict[str, Any]:
        """Values by field name. An empty text field is None where the field may be None."""
        return {name: self._value(name, data[self._components[name]]) for name in self.names}

    def check(self, data: Data) -> dict[Component, str]:
        """The invalid values, each with what is wrong."""
        found = {part: self.problem(name, data[part]) for name, part in self._components.items()}
        return {part: problem for part, problem in found.items() if problem}

    def problem(self, name: str, value: Any) -> str:
        """What is wrong with one value, "" if nothing."""
        try:
            assign(self.config_type.model_construct(), name, self._value(name, value))
        except ConfigError as error:
            return "; ".join(problem.removeprefix(f"{name} ").capitalize() for problem in error.problems)
        return ""

    def to_saved(self, config: Config) -> dict[str, Any]:
        """The values of ``config`` by the keys under which they are saved."""
        return {self.key(name): self.displayed(name, getattr(config, name)) for name in self.names}

    def displayed(self, name: str, value: Any) -> Any:
        """The value of the component of a field that shows ``value``."""
        return _display(fields(self.config_type)[name], value)

    def _value(self, name: str, value: Any) -> Any:
        return None if value == "" and _kind(fields(self.config_type)[name])[1] else value

    def _create(self, name: str) -> None:
        field = fields(self.config_type)[name]
        default = self._defaults.get(name, None if field.is_required() else field.get_default())
        component = _component(
            field, _display(field, default), self._id(name), self._labels.get(name), self._lines.get(name)
        )
        is_free = isinstance(component, gr.Textbox | gr.Number)  # shows any text or number, also one to be corrected
        self._saved_fields.add(
            self.key(name),
            component,
            lambda value: is_free or not self.problem(name, value),
            convert=(lambda value: self._converted(name, value)) if choices(field) else None,
        )
        self._components[name] = component

    def _converted(self, name: str, value: Any) -> Any:
        """The valid choice that ``value`` stands for, which may have another spelling; else ``value``."""
        probe = self.config_type.model_construct()
        try:
            assign(probe, name, self._value(name, value))
        except ConfigError:
            return value
        return self.displayed(name, getattr(probe, name))

    def _id(self, name: str) -> str:
        return f"{self._prefix}-{name}".replace("_", "-").replace(".", "-")


def _component(
    field: FieldInfo, value: Any, elem_id: str, labels: Registry[Any] | None, lines: int | None
) -> Component:
    unit = _extra(field, "unit")
    common: dict[str, Any] = {
        "label": f"{field.title} ({unit})" if unit else field.title,
        "info": field.description,
        "elem_id": elem_id,
        "value": value,
        "min_width": 200,
    }
    kind, may_be_empty = _kind(field)
    if may_be_empty and kind in (int, float):  # gr.Number shows 0 for None
        return gr.Textbox(placeholder="automatic", **common)
    if valid := choices(field):
        options = [
            (labels[value].label if labels and value in labels else label, value) for value, label in valid.items()
        ]
        return gr.Radio(options, **common) if len(options) <= _MAX_RADIO_OPTIONS else gr.Dropdown(options, **common)
    if kind is bool:
        return gr.Checkbox(**common)
    if kind is int and unit == "%":
        return gr.Slider(_limit(field, Ge), _limit(field, Le), step=5, **common)
    if kind in (int, float):  # without limits: gr.Number rejects a value without naming the field
        return gr.Number(precision=0 if kind is int else None, **common)
    return gr.Textbox(lines=lines or 1, max_lines=3 * lines if lines else 1, **common)


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


def _display(field: FieldInfo, value: Any) -> Any:
    kind, may_be_empty = _kind(field)
    if value is None:
        return ""
    if may_be_empty and kind in (int, float):
        return f"{value:g}"
    if isinstance(value, dict):  # such fields accept JSON text
        return json.dumps(value) if value else ""
    return str(value) if isinstance(value, Path) else value


def _extra(field: FieldInfo, name: str) -> Any:
    extra = field.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Config)
