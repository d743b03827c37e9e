"""Result types of the export targets: the written adapter, and the weights that the program loads from it."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a program loads from a file.

    Attributes:
        modules: original module name -> weights by part, with the program's scaling applied.
        ignored_keys: keys that the program ignores.
    """

    modules: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    ignored_keys: list[str] = field(default_factory=list)

    def drop(self, module: str, keys: list[str]) -> None:
        """Record that the program ignores ``module``, whose keys are ``keys``."""
        self.modules.pop(module, None)
        self.ignored_keys.extend(keys)


@dataclass(frozen=True, slots=True)
class WrittenAdapter:
    """An adapter that was written for one program.

    Attributes:
        loaded: what the program loads from it.
        form: what the adapter was converted to, such as ``lora``.
        exact: whether it differs from the trained adapter by rounding only.
        file: the file in the folder that the program needs; empty if it needs the folder.
    """

    loaded: LoadResult
    form: str
    exact: bool
    file: str = ""
