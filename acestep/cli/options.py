"""Command-line flags made from configurations: a field is declared once, its flag follows."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from acestep.core.config import Config, choices, fields, parse

C = TypeVar("C", bound=Config)


def add_command(
    app: typer.Typer,
    name: str,
    config_type: type[C],
    run: Callable[..., None],
    *,
    arguments: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
    leave_out: tuple[str, ...] = (),
) -> None:
    """Register ``run(config, **extra)`` as a command whose flags are the fields of ``config_type``.

    Fields named in ``arguments`` are positional. ``extra`` holds typer annotations of further flags, with
    their defaults as ``(annotation, default)``. A field that is a configuration itself, or is left out, has no flag.
    """
    names = [n for n, field in fields(config_type).items() if n not in leave_out and not _is_config(field.annotation)]
    names.sort(key=lambda n: arguments.index(n) if n in arguments else len(arguments))  # stable: the rest in order
    further = extra or {}

    def command(**values: Any) -> None:
        chosen = {key: values.pop(key) for key in names}
        run(parse(config_type, {key: value for key, value in chosen.items() if value is not None}), **values)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [_parameter(key, config_type, positional=key in arguments) for key in names]
    parameters += [
        inspect.Parameter(key, keyword, annotation=annotation, default=default)
        for key, (annotation, default) in further.items()
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = run.__doc__
    app.command(name)(command)


def _parameter(name: str, config_type: type[Config], *, positional: bool) -> inspect.Parameter:
    field = fields(config_type)[name]
    required, kind = field.is_required(), _flag_type(field)
    about: dict[str, Any] = {
        "help": field.description,
        "show_default": not required and field.default not in (None, ""),
    }
    flag = name.removesuffix("_s").replace("_", "-")  # seconds need no mark on a command line
    switch = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    mark: Any = typer.Argument(**about) if positional else typer.Option(switch, **about)
    annotation: Any = Annotated[kind if required else kind | None, mark]
    default = inspect.Parameter.empty if required else field.default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _flag_type(field: FieldInfo) -> Any:
    """The type that typer parses a flag as; ``None`` alternatives are dropped, names in a registry become choices."""
    annotation: Any = field.annotation
    if valid := choices(field):
        return Literal[tuple(valid)]
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    return annotation if annotation in (bool, int, float, Path) else str


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Config)
