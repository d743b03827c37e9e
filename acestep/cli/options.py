"""Commands generated from configurations: each field is declared once and becomes an option of its command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo

from acestep.core.config import Config, choices, fields, parse

F = TypeVar("F", bound=Callable[..., None])


def config_command(
    commands: typer.Typer,
    config_type: type[Config],
    *,
    arguments: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
) -> Callable[[F], F]:
    """Register the decorated function as a command whose options are the fields of ``config_type``.

    The function's first parameter receives the validated configuration. Its other parameters, annotated as typer
    expects, become further options. Names, types, defaults and help texts of the options come from the fields:

    - ``max_tokens`` is ``--max-tokens``; the suffix ``_s`` (seconds) is dropped, ``duration_s`` is ``--duration``.
    - A boolean is a pair of flags, ``--measure`` and ``--no-measure``.
    - A list is an option that may be repeated, named in the singular: ``prompts`` is ``--prompt``.
    - A field that is a configuration itself has no option.

    Args:
        arguments: fields that are positional, in this order.
        exclude: fields without an option.
    """
    names = option_names(config_type, exclude=exclude)
    names.sort(key=lambda name: arguments.index(name) if name in arguments else len(arguments))  # stable

    def register(run: F) -> F:
        _, *further = inspect.signature(run).parameters.values()
        hints = get_type_hints(run, include_extras=True)

        def command(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            run(parse(config_type, {name: value for name, value in given.items() if value is not None}), **values)

        parameters = [_parameter(name, fields(config_type)[name], name in arguments) for name in names]
        parameters += [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in further]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        command.__doc__ = run.__doc__
        commands.command(run.__name__)(command)
        return run

    return register


def option_names(config_type: type[Config], *, exclude: tuple[str, ...] = ()) -> list[str]:
    """The fields of ``config_type`` that have an option, in order."""
    return [
        name
        for name, field in fields(config_type).items()
        if name not in exclude and not (isinstance(field.annotation, type) and issubclass(field.annotation, Config))
    ]


def help_of(config_type: type[Config], name: str) -> str:
    """The help text of a field, for a command that is not generated from its configuration."""
    return fields(config_type)[name].description or ""


def _parameter(name: str, field: FieldInfo, is_argument: bool) -> inspect.Parameter:
    required, kind = field.is_required(), _option_type(field)
    is_list = get_origin(kind) is list
    flag = name.removesuffix("_s").replace("_", "-")
    if is_list:
        flag = flag.removesuffix("s")
    about: dict[str, Any] = {"help": f"{field.description} May be repeated." if is_list else field.description}
    about["show_default"] = not required and field.default not in (None, "", [])
    if is_list and field.default:
        about["show_default"] = ", ".join(map(str, field.default))
    switch = f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}"
    mark: Any = typer.Argument(**about) if is_argument else typer.Option(switch, **about)
    default = inspect.Parameter.empty if required else None if is_list else field.default
    annotation: Any = Annotated[kind if required else kind | None, mark]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _option_type(field: FieldInfo) -> Any:
    """The type that typer parses: without ``None``, registry names as choices, ``str`` for what typer does not know."""
    if valid := choices(field):
        return Literal[tuple(valid)]
    annotation: Any = field.annotation
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is list and get_origin(get_args(annotation)[0]) is Annotated:
        item = get_args(get_args(annotation)[0])[0]  # its limits are checked by the configuration
        return GenericAlias(list, (item,))
    if get_origin(annotation) in (Literal, list):
        return annotation
    return annotation if annotation in (bool, int, float, Path) else str
