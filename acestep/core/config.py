"""Base class of all configurations. Each field is declared once, with its type, default, limits, label and help.

The forms of the pages, the options and ``--set`` of the command line, the validation of JSON files, the error messages
and the tables of the guide are generated from that declaration.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from acestep.core.errors import ConfigError
from acestep.core.registry import NameIn

MAX_COUNT = 1_000_000_000  # upper limit of counts that have no natural one, such as epochs and steps
MAX_SEED = 2**63 - 1
_MAX_TEXT_LENGTH = 20_000
_MAX_SHOWN = 200  # characters of a value in a message


class Config(BaseModel):
    """Base of all configurations: unknown keys, NaN and long texts are rejected, assignments are validated."""

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        allow_inf_nan=False,
        str_max_length=_MAX_TEXT_LENGTH,
        protected_namespaces=(),
    )


C = TypeVar("C", bound=Config)


def option(default: Any, label: str, help: str, *, unit: str = "", advanced: bool = False, **limits: Any) -> Any:
    """A field with its label and help. ``limits`` are those of pydantic (ge, le, gt, lt …)."""
    return Field(
        default=default,
        title=label,
        description=help,
        json_schema_extra={"unit": unit, "advanced": advanced},
        validate_default=True,
        **limits,
    )


def group(config_type: type[Config], label: str) -> Any:
    """A field that holds another configuration."""
    return Field(default_factory=config_type, title=label)


def parse(config_type: type[C], data: Mapping[str, Any]) -> C:
    """A validated configuration from JSON data.

    Raises:
        ConfigError: lists every problem; for an unknown key it suggests the most similar one.
    """
    try:
        return config_type.model_validate(dict(data))
    except ValidationError as error:
        raise ConfigError([_describe_problem(config_type, item) for item in error.errors()]) from None


def assign(config: Config, key: str, value: Any) -> None:
    """Validate and set one field. Raises ConfigError."""
    if key not in type(config).model_fields:
        raise ConfigError(_unknown_option(key, type(config)))
    try:
        setattr(config, key, value)
    except ValidationError as error:
        raise ConfigError([_describe_problem(type(config), item, key) for item in error.errors()]) from None


def fields(config_type: type[Config]) -> dict[str, FieldInfo]:
    """Field name -> declaration, in order."""
    return config_type.model_fields


def groups(config_type: type[Config]) -> dict[str, type[Config]]:
    """Field name -> class, for the fields of ``config_type`` that hold another configuration."""
    found = {name: field.annotation for name, field in fields(config_type).items()}
    return {name: kind for name, kind in found.items() if isinstance(kind, type) and issubclass(kind, Config)}


def choices(field: FieldInfo) -> dict[Any, str]:
    """Value -> label of each valid choice of a field at this moment; empty if the field is not a choice.

    Choices come from a ``Literal`` or, through ``NameIn``, from a registry.
    """
    for part in (*field.metadata, *_parts(field.annotation)):
        if isinstance(part, NameIn):
            return {choice: part.label(choice) for choice in part.choices}
        if get_origin(part) is Literal:
            return {choice: str(choice) for choice in get_args(part)}
    return {}


def _parts(annotation: Any) -> Iterator[Any]:
    """The annotation itself, the members of a union, and the metadata of ``Annotated``, recursively."""
    yield annotation
    if get_origin(annotation) in (Union, UnionType, Annotated):
        for part in get_args(annotation):
            yield from _parts(part)


def _describe_problem(config_type: type[Config], item: Any, key: str | None = None) -> str:
    where = [str(part) for part in item["loc"]] or [key or ""]
    if item["type"] == "extra_forbidden":
        return _unknown_option(where[-1], _config_at(config_type, where[:-1]))
    text = item["msg"].removeprefix("Value error, ")
    text = "must be " + text.removeprefix("Input should be ") if text.startswith("Input should be ") else text
    if item["type"] == "missing":
        return f"{'.'.join(where)} is missing"
    return f"{'.'.join(where)} {text}, got {_shortened(item['input'])}" if item["type"] != "value_error" else text


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}… ({len(text):,} characters)"


def _config_at(config_type: type[Config], path: list[str]) -> type[Config]:
    for part in path:
        found = config_type.model_fields[part].annotation if part in config_type.model_fields else None
        if not (isinstance(found, type) and issubclass(found, Config)):
            return config_type
        config_type = found
    return config_type


def _unknown_option(key: str, config_type: type[Config]) -> str:
    near = difflib.get_close_matches(key, config_type.model_fields, n=1)
    return f"unknown option {key!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
