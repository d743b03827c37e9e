"""The command that lists every setting of a training run. Its tables are made from the configurations themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from acestep.console import Json, print_json
from acestep.core.config import choices, fields, groups
from acestep.core.errors import UnknownName
from acestep.core.registry import nearest_hint
from acestep.training.configs import TrainJob
from acestep.training.presets import EPOCHS, EPOCHS_BEYOND, gpu_presets, list_presets, read_preset

_HEAD = """# Settings of a training run

Made by `python -m acestep settings --markdown` from the declarations in the program; do not edit it here.
Give a setting with `--set name=value`, in a JSON file for `--config`, or in the form of the page.
"""
_BOUNDS = {Ge: "from {}", Gt: "above {}", Le: "to {}", Lt: "below {}"}
_KINDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def settings(
    name: Annotated[str | None, typer.Argument(help="A group such as lora, or a setting. All without it.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the whole reference page.")] = False,
    json_output: Json = False,
) -> None:
    """List the settings of a training run: what each does, takes and is by default."""
    rows = [row for row in every_setting() if name is None or name in (row["group"], row["name"], _full(row))]
    if not rows:
        known = [spelling for row in every_setting() for spelling in (row["name"], _full(row))]
        raise UnknownName(f"no setting or group is called {name!r}", hint=nearest_hint(str(name), known))
    if markdown:
        typer.echo(reference(), nl=False)
    elif json_output:
        print_json({"ok": True, "settings": rows})
    else:
        for row in rows:
            typer.echo(f"{_full(row)} = {row['default']}\n    {row['help']} ({row['takes']})")


def every_setting() -> Iterator[dict[str, str]]:
    """Group, name, label, help, default and what it takes, of each setting in the order of the form."""
    for group, config_type in groups(TrainJob).items():
        for name, field in fields(config_type).items():
            yield {
                "group": group,
                "name": name,
                "label": str(field.title),
                "help": str(field.description),
                "default": _value(field.get_default(call_default_factory=True)),
                "takes": _takes(field),
            }


def reference() -> str:
    """The page ``docs/SETTINGS.md``: settings, presets and epochs."""
    parts = [_HEAD]
    rows = list(every_setting())
    for group, config_type in groups(TrainJob).items():
        title = str(fields(TrainJob)[group].title)
        prefix = "" if group == "training" else f"{group}."
        body = [
            (f"`{prefix}{row['name']}`", f"`{row['default']}`", f"{row['label']}. {row['help']}", row["takes"])
            for row in rows
            if row["group"] == group and row["name"] in fields(config_type)
        ]
        parts.append(f"## {title}\n\n{_table(('setting', 'default', 'what it does', 'takes'), body)}")
    parts += [_presets("lora"), _presets("lokr"), _epochs()]
    return "\n".join(parts)


def _presets(kind: str) -> str:
    """What each preset sets for one kind of adapter, a column each."""
    read = {name: read_preset(name, kind).settings for name in [*list_presets(), *gpu_presets().values()]}
    found = {name: each for name, each in read.items() if each.get("training.adapter_type", kind) == kind}
    keys = sorted(
        {key for settings in found.values() for key in settings if key.partition(".")[0] in ("training", kind)}
    )
    body = [
        (f"`{key.removeprefix('training.')}`", *(_value(each.get(key, "-")) for each in found.values())) for key in keys
    ]
    return f"## Presets for {kind}\n\n{_table(('setting', *(f'`{name}`' for name in found)), body)}"


def _epochs() -> str:
    """Epochs and checkpoints by the number of songs."""
    few = [(f"up to {songs}", str(epochs), str(every)) for songs, epochs, every in EPOCHS if songs]
    beyond = (f"more than {EPOCHS[-1][0]}", *map(str, EPOCHS_BEYOND))
    return f"## Epochs by songs\n\n{_table(('songs', 'epochs', 'checkpoint every'), [*few, beyond])}"


def _table(head: tuple[str, ...], body: Sequence[tuple[str, ...]]) -> str:
    rows = [head, ("---",) * len(head), *body]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def _takes(field: FieldInfo) -> str:
    kind: Any = field.annotation
    empty = ""
    if get_origin(kind) in (Union, UnionType):
        kind = next(one for one in get_args(kind) if one is not type(None))
        empty = ", or none"
    if valid := choices(field):
        return ", ".join(map(str, valid)) + empty
    extra = field.json_schema_extra
    unit = str(extra.get("unit") or "") if isinstance(extra, dict) else ""
    limits = [
        words.format(_value(value))
        for limit, words in _BOUNDS.items()
        for found in field.metadata
        if (value := getattr(found, limit.__name__.lower(), None)) is not None
    ]
    return " ".join([_KINDS.get(kind, "JSON object"), *limits, *([f"in {unit}"] if unit else [])]) + empty


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value in ("", {}):
        return "none" if value is None else "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _full(row: dict[str, str]) -> str:
    return row["name"] if row["group"] == "training" else f"{row['group']}.{row['name']}"
