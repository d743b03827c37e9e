"""Find a LyCORIS config that produces LoKr factors of given shapes.

The ACE-Step app creates the LoKr modules from the config in the file and then loads the weights. If the shapes differ,
it loads nothing, reports no error and generates with the base model only.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

from lycoris.functional.general import factorization
from torch import Tensor

from acestep.adapters.base import StoredAdapter
from acestep.adapters.configs import LoKRConfig
from acestep.adapters.lokr_file import MAGNITUDE
from acestep.adapters.targets import CONVOLUTIONS, KERNEL_SIZE

_MAX_FACTOR = 1024  # the limit of the setting

Modules = Mapping[str, Mapping[str, Tensor]]


def with_loadable_config(adapter: StoredAdapter) -> StoredAdapter | None:
    """``adapter`` with a config that produces the shapes of its factors, or None if there is none.

    The existing config is preferred. Adapters of other kinds are returned unchanged.
    """
    if adapter.kind != "lokr":
        return adapter
    assert isinstance(adapter.config, LoKRConfig)
    modules = adapter.modules
    config = adapter.config if _builds_all(adapter.config, modules) else find_lokr_config(modules)
    return dataclasses.replace(adapter, config=config) if config else None


def find_lokr_config(modules: Modules) -> LoKRConfig | None:
    """A config that produces the factors of all ``modules``, or None."""
    dims = {parts[name].shape[0] for parts in modules.values() for name in ("lokr_w1_b", "lokr_w2_b") if name in parts}
    if len(dims) > 1:
        return None
    dim = dims.pop() if dims else LoKRConfig().linear_dim
    both = any("lokr_w1_a" in parts for parts in modules.values())
    decomposed = any(MAGNITUDE in parts for parts in modules.values())
    sizes = {size for name, parts in modules.items() for size in _sizes(name, parts)[0] if size <= _MAX_FACTOR}
    for factor, unbalanced in itertools.product((-1, *sorted(sizes)), (False, True)):
        config = LoKRConfig(
            linear_dim=dim,
            linear_alpha=dim,
            factor=factor,
            decompose_both=both,
            weight_decompose=decomposed,
            unbalanced_factorization=unbalanced,
        )
        if _builds_all(config, modules):
            return config
    return None


def _builds_all(config: LoKRConfig, modules: Modules) -> bool:
    return all(_builds(config, name, parts) for name, parts in modules.items())


def _builds(config: LoKRConfig, module: str, parts: Mapping[str, Tensor]) -> bool:
    """Whether LyCORIS creates factors of these shapes from ``config`` (lycoris 4.1.3, modules/lokr.py)."""
    first, second = _sizes(module, parts)
    rows = factorization(first[0] * second[0], config.factor)
    rows = rows[::-1] if config.unbalanced_factorization else rows
    columns = factorization(first[1] * second[1], config.factor)
    first_is_low_rank = config.decompose_both and config.linear_dim < max(first) / 2
    second_is_low_rank = config.linear_dim < max(second) / 2
    return (
        (rows[0], columns[0]) == first
        and first_is_low_rank == ("lokr_w1_a" in parts)
        and second_is_low_rank == ("lokr_w2" not in parts)
        and config.weight_decompose == (MAGNITUDE in parts)
        and (not config.weight_decompose or len(parts[MAGNITUDE]) == rows[0] * rows[1])  # not one per input
    )


def _sizes(module: str, parts: Mapping[str, Tensor]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes [rows, columns] of both Kronecker factors, without the kernel in a low-rank factor of a convolution."""
    found = []
    for half in ("lokr_w1", "lokr_w2"):
        left, right = (parts[half], parts[half]) if half in parts else (parts[f"{half}_a"], parts[f"{half}_b"])
        kernel = KERNEL_SIZE if half == "lokr_w2" and half not in parts and module in CONVOLUTIONS else 1
        found.append((left.shape[0], right.shape[1] // kernel))
    return found[0], found[1]
