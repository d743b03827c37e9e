"""Tables of interchangeable implementations: one table per extension point, one entry per name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from acestep.core.errors import UnknownName

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One implementation: its id, what the user reads, and what makes it."""

    name: str
    label: str
    help: str
    make: T


class Registry(Generic[T]):
    """Name -> Entry, in registration order, which is also the order of menus."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str, *, label: str, help: str = "") -> Callable[[T], T]:
        """Decorate the function or class that makes the implementation."""
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is registered twice")

        def add(make: T) -> T:
            self._entries[name] = Entry(name, label, help, make)
            return make

        return add

    def __getitem__(self, name: str) -> Entry[T]:
        if name not in self._entries:
            raise UnknownName([f"no {self.kind} is called {name!r}"], hint=nearest_hint(name, self.names))
        return self._entries[name]

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def names(self) -> list[str]:
        return list(self._entries)


def nearest_hint(name: str, known: list[str]) -> str:
    """``Did you mean 'x'?`` when a known name is near, else the list of all."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
