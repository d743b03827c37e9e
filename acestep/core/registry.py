"""Registries of interchangeable implementations: one registry per extension point, one entry per name.

A registration carries everything the program knows about an implementation. The implementation itself is imported when
it is first used, so that a registry and the configs that refer to it import in milliseconds::

    OPTIMIZERS.register("adamw", target="acestep.training.optim.optimizers:adamw", label="AdamW", state_bytes=...)
    OPTIMIZERS["adamw"].load()

Entries can be added at any time. Config fields, forms, help texts and tables read the registry when they need it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from acestep.core.errors import UnknownName
from acestep.core.errors import nearest_hint as nearest_hint  # also imported from here

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Entry(Generic[T]):
    """What the program knows about one implementation. Subclasses add typed facts; ``None`` means unknown.

    Attributes:
        name: identifier in configs, in saved files and on the command line.
        target: ``module:attribute`` of the implementation.
        label, help: what forms and tables show.
    """

    name: str
    target: str
    label: str
    help: str = ""

    def load(self) -> T:
        """Import and return the implementation.

        Raises:
            ImportError, AttributeError: ``target`` does not name an importable object.
        """
        found: T = pkgutil.resolve_name(self.target)
        return found


E = TypeVar("E", bound=Entry[Any])


class Registry(Generic[E]):
    """Entries by name, in registration order, which is also the order of menus.

    Args:
        kind: the noun for an entry in error messages, such as "optimizer".
        entry_type: the dataclass that holds the facts of an entry.
    """

    def __init__(self, kind: str, entry_type: type[E]) -> None:
        self.kind = kind
        self._entry_type = entry_type
        self._entries: dict[str, E] = {}
        self._listeners: list[Callable[[], None]] = []

    def register(self, name: str, *, target: str, label: str, help: str = "", **facts: Any) -> E:
        """Add an entry. ``facts`` are the further fields of the entry type.

        Raises:
            ValueError: the name is taken.
            TypeError: the entry type has no such fact.
        """
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")
        entry = self._entry_type(name=name, target=target, label=label, help=help, **facts)
        self._entries[name] = entry
        self._notify()
        return entry

    def unregister(self, name: str) -> None:
        """Remove an entry. Raises UnknownName."""
        del self._entries[self[name].name]
        self._notify()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each later registration and removal."""
        self._listeners.append(listener)

    def _notify(self) -> None:
        for listener in self._listeners:
            listener()

    def __getitem__(self, name: str) -> E:
        if name not in self._entries:
            raise UnknownName([f"no {self.kind} is called {name!r}"], hint=nearest_hint(name, self.names))
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[E]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def names(self) -> list[str]:
        return list(self._entries)


@dataclass(frozen=True)
class NameIn:
    """Annotates a config field that holds the name of an entry: ``Annotated[str, NameIn(OPTIMIZERS)]``.

    The registry is read at validation time, so entries that are registered later are valid too.

    Attributes:
        registry: whose names are valid.
        extra: further valid values, such as "none". They come last in menus.
        where: which entries are valid; all by default.
    """

    registry: Registry[Any]
    extra: tuple[str, ...] = ()
    where: Callable[[Any], bool] | None = None

    @property
    def choices(self) -> list[str]:
        """The valid values at this moment."""
        return [*(entry.name for entry in self.registry if self.where is None or self.where(entry)), *self.extra]

    def label(self, choice: str) -> str:
        """What a menu shows for a valid value."""
        return self.registry[choice].label if choice in self.registry else choice

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str) -> str:
        if value in self.choices:
            return value
        *rest, last = map(repr, self.choices)
        expected = f"{', '.join(rest)} or {last}" if rest else last
        raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
