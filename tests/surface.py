"""Describes what other programs and users rely on: endpoints, commands, settings, registered names, labels.

Choices are sorted: their order in menus is not part of the description.

``tests/fixtures/surface.json`` is the committed description. After a deliberate addition, write it again:

    env/bin/python -m tests.surface
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer.main
from pydantic import BaseModel

from acestep.core.paths import PROJECT

SNAPSHOT = Path(__file__).parent / "fixtures" / "surface.json"
PAGES = {"trainer": "lora_training_ui", "captioner": "captioner_standalone"}
REGISTRIES = {  # registry -> the job and the setting that takes the names of its entries
    "adapters": ("train", "training.adapter_type"),
    "captioners": ("caption", "captioner"),
    "loss weightings": ("train", "training.loss_weighting"),
    "optimizers": ("train", "training.optimizer_type"),
    "schedules": ("train", "training.scheduler_type"),
    "transcribers": ("caption", "transcriber"),
}
LIMITS = ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern")


def describe_surface() -> dict[str, Any]:
    """The description of the program as it is now. Builds both pages; does not serve them and does not load models."""
    pages = {name: importlib.import_module(module).build_page() for name, module in PAGES.items()}
    jobs = {name: config_of_job(name) for name in job_names()}
    registered = {registry: jobs[job][setting]["choices"] for registry, (job, setting) in REGISTRIES.items()}
    return {
        "endpoints": {name: endpoints(page.blocks) for name, page in pages.items()},
        "health": {name: sorted(page.health()) for name, page in pages.items()},
        "errors": error_codes(),
        "commands": commands(),
        "launcher": launcher(),
        "jobs": jobs,
        "registries": registered | {"export targets": choices_of(pages["trainer"].blocks, "tr-export-target")},
        "presets": presets(),
    }


def endpoints(blocks: Any) -> dict[str, Any]:
    """Public endpoint -> parameter -> its type, and its default if it has one."""
    return {
        name: {
            parameter["parameter_name"]: {"type": parameter["python_type"]["type"]}
            | ({"default": parameter["parameter_default"]} if parameter["parameter_has_default"] else {})
            for parameter in endpoint["parameters"]
        }
        for name, endpoint in blocks.get_api_info()["named_endpoints"].items()
    }


def labels(blocks: Any) -> set[str]:
    """The labels of all fields and panels of a page, and the texts of its buttons."""
    properties = [(component["type"], component["props"]) for component in blocks.config["components"]]
    found = {str(props.get("label") or "") for _, props in properties}
    return found | {str(props.get("value") or "") for kind, props in properties if kind == "button"}


def choices_of(blocks: Any, elem_id: str) -> list[str]:
    """The values that a field of a page offers."""
    found = next(item["props"] for item in blocks.config["components"] if item["props"].get("elem_id") == elem_id)
    return sorted(value for _, value in found["choices"])


def error_codes() -> dict[str, str]:
    """Code of each error, as written to disk and sent over HTTP -> code of its base."""
    base = pkgutil.resolve_name("acestep.core.errors:AceStepError")
    return dict(sorted((_code(kind), _code(kind.__mro__[1])) for kind in _subclasses(base)))


def _subclasses(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        if kind.__module__ == base.__module__:
            yield kind
            yield from _subclasses(kind)


def _code(kind: Any) -> str:
    return str(getattr(kind, "code", kind.__name__))


def commands() -> dict[str, Any]:
    """Command -> its arguments and options; a command of a group is named "group command"."""
    return dict(_commands(typer.main.get_command(pkgutil.resolve_name("acestep.cli.app:app")), ""))


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, {" ".join([*p.opts, *p.secondary_opts]): _parameter(p) for p in command.params}


def _parameter(parameter: Any) -> dict[str, Any]:
    found = _type(parameter.type_descriptor.annotation)
    limits = {key: getattr(parameter, key) for key in ("min", "max") if getattr(parameter, key) is not None}
    positional = parameter.param_type_name == "argument"
    return {
        **found,
        **limits,
        **({"positional": True} if positional else {}),
        **({"multiple": True} if parameter.multiple or parameter.nargs != 1 else {}),
        **({"required": True} if parameter.required else {"default": _plain(parameter.default)}),
    }


def launcher() -> dict[str, Any]:
    """Option of ``launch.py`` -> its default and choices."""
    return {
        " ".join(action.option_strings): {"default": action.default, "choices": action.choices}
        for action in importlib.import_module("launch")._parser()._actions
        if action.dest != "help"
    }


def job_names() -> list[str]:
    """The names of all jobs, as in ``job.json``."""
    return sorted(pkgutil.resolve_name("acestep.core.jobs:JOBS"))


def config_of_job(name: str) -> dict[str, Any]:
    """Field -> type, default and limits of the configuration of a job; nested configurations by dotted names."""
    return dict(_fields(pkgutil.resolve_name(pkgutil.resolve_name("acestep.core.jobs:JOBS")[name].config), ""))


def _fields(config_type: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in config_type.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
            continue
        choices = [sorted(item.choices) for item in field.metadata if hasattr(item, "choices")]
        limits = {k: v for item in field.metadata for k in LIMITS if (v := getattr(item, k, None)) is not None}
        default = {} if field.is_required() else {"default": _plain(field.get_default(call_default_factory=True))}
        yield prefix + name, {**_type(kind), **({"choices": choices[0]} if choices else {}), **limits, **default}


def _type(annotation: Any) -> dict[str, Any]:
    """A type as plain data: its name, or its choices; ``null`` when it may be None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        choices = [sorted(item.choices) for item in arguments[1:] if hasattr(item, "choices")]
        return _type(arguments[0]) | ({"choices": choices[0]} if choices else {})
    if origin in (Union, UnionType):
        rest = [one for one in arguments if one is not NoneType]
        found = _type(rest[0]) if len(rest) == 1 else {"type": " | ".join(_name(one) for one in rest)}
        return found | ({"null": True} if len(rest) < len(arguments) else {})
    if origin is Literal:
        return {"type": _name(type(arguments[0])), "choices": sorted(arguments)}
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {"type": "str", "choices": sorted(one.value for one in annotation)}
    return {"type": _name(annotation)}


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Path):
        return value.relative_to(PROJECT).as_posix() if value.is_relative_to(PROJECT) else value.as_posix()
    return value


def presets() -> dict[str, list[str]]:
    """The names of the built-in presets."""
    return {"presets": pkgutil.resolve_name("acestep.training.configs:list_presets")()}


def write_snapshot() -> None:
    """Write ``SNAPSHOT``."""
    text = json.dumps(describe_surface(), indent=1, ensure_ascii=False)
    SNAPSHOT.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_snapshot()
