"""Every number and text of a configuration has limits, so that no value overflows a file, a page or a computation."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

import acestep
from acestep.core.config import Config, assign, fields, groups
from acestep.core.errors import ConfigError

HUGE = 10**30 + 7  # 31 digits
MODULES = ("configs", "jobs", "run", "preview_config", "dataset_tab", "export_tab", "bulk_edit", "review_tab")


def config_types() -> list[type[Config]]:
    """All configurations of the program."""
    for module in pkgutil.walk_packages(acestep.__path__, "acestep."):
        if module.name.rpartition(".")[2] in MODULES:
            importlib.import_module(module.name)

    def subclasses(kind: type[Config]) -> Iterator[type[Config]]:
        for each in kind.__subclasses__():
            yield each
            yield from subclasses(each)

    return [kind for kind in subclasses(Config) if kind.__module__.startswith("acestep.")]


def numbers(annotation: Any, metadata: list[Any]) -> Iterator[tuple[type, list[Any]]]:
    """Each int or float in an annotation, also in lists and unions, with the limits that apply to it."""
    if annotation in (int, float):
        yield annotation, metadata
    elif get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        more = [part for item in extra for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
        yield from numbers(inner, [*metadata, *more])
    elif get_origin(annotation) is not Literal:
        for part in get_args(annotation):
            yield from numbers(part, metadata)


def test_all_configurations_are_found() -> None:
    assert {kind.__name__ for kind in config_types()} >= {"TrainingConfig", "CaptionJob", "GenerateJob", "BulkEdit"}


@pytest.mark.parametrize("kind", config_types(), ids=lambda kind: kind.__name__)
def test_every_number_has_a_lower_and_an_upper_limit(kind: type[Config]) -> None:
    for name, field in fields(kind).items():
        for _, limits in numbers(field.annotation, list(field.metadata)):
            assert any(isinstance(limit, Le | Lt) for limit in limits), f"{kind.__name__}.{name} has no upper limit"
            assert any(isinstance(limit, Ge | Gt) for limit in limits), f"{kind.__name__}.{name} has no lower limit"


@pytest.mark.parametrize("kind", config_types(), ids=lambda kind: kind.__name__)
def test_huge_numbers_and_long_texts_are_rejected_with_a_short_message(kind: type[Config]) -> None:
    for name, field in fields(kind).items():
        if field.annotation in (Path, Path | None) or name in groups(kind):
            continue
        for value in (HUGE, -HUGE, math.inf, math.nan, "x" * 30_000):
            with pytest.raises(ConfigError) as caught:
                assign(kind.model_construct(**dict.fromkeys(groups(kind))), name, value)
            assert len(str(caught.value)) < 2000, name


def test_a_long_text_is_shortened_in_the_message() -> None:
    with pytest.raises(ConfigError, match=r"20000 characters, got 'xxx.*… \(30,002 characters\)"):
        assign(next(kind for kind in config_types() if kind.__name__ == "GenerationConfig")(), "lyrics", "x" * 30_000)
