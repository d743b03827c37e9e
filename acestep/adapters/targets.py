"""The target modules of an adapter, and their names in adapter files.

In memory, modules have diffusers names (``layers.0.self_attn.to_q``). Adapter files use the original names
(``layers.0.self_attn.q_proj``, with underscores in LyCORIS files).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from acestep.adapters.configs import ATTENTION_TYPES
from acestep.core.errors import AdapterError
from acestep.models.weight_shapes import is_xl

_PROJECTIONS = r"(to_q|to_k|to_v|to_out\.0)"
_BRANCHES = {"both": ("self_attn", "cross_attn"), "self": ("self_attn",), "cross": ("cross_attn",)}

# Original names of all linear and convolution layers that any trainer adapts.
_LAYER = r"layers\.\d+\.((self_attn|cross_attn)\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_KNOWN = re.compile(rf"{_LAYER}|condition_embedder|time_embed(_r)?\.(linear_1|linear_2|time_proj)|proj_in\.1")
CONVOLUTIONS = ("proj_in.1",)
"""Original names of the convolutions among them. LyCORIS adapts them with every trainer's default settings."""
KERNEL_SIZE = 2
"""Their kernel size."""

_UNDERSCORES = (
    (re.compile(r"layers_(\d+)_(self_attn|cross_attn|mlp)_(\w+)"), r"layers.\1.\2.\3"),
    (re.compile(r"(time_embed|time_embed_r)_(linear_1|linear_2|time_proj)"), r"\1.\2"),
    (re.compile(r"proj_in_1"), "proj_in.1"),
)


def target_modules(decoder: nn.Module, attention_type: str, train_mlp: bool) -> list[str]:
    """Names of the linear layers to adapt, in the order of the decoder.

    Raises:
        AdapterError: unknown ``attention_type``, or the decoder lacks some of the layers.
    """
    if attention_type not in ATTENTION_TYPES:
        raise AdapterError(
            f"attention target {attention_type!r} is unknown", hint=f"Choose one of {', '.join(ATTENTION_TYPES)}."
        )
    parts = [rf"layers\.\d+\.{branch}\.{_PROJECTIONS}" for branch in _BRANCHES[attention_type]]
    if train_mlp:
        parts.append(r"layers\.\d+\.mlp\.(gate_proj|up_proj|down_proj)")
    linear = [name for name, module in decoder.named_modules() if isinstance(module, nn.Linear)]
    for part in parts:
        if not any(re.fullmatch(part, name) for name in linear):
            raise AdapterError(f"this model has no linear layer that matches {part}", hint="Choose another target.")
    return [name for name in linear if any(re.fullmatch(part, name) for part in parts)]


def decoder_family(decoder: nn.Module) -> str:
    """ "xl" if the condition width is smaller than that of the decoder, else "2b"."""
    config: Any = decoder.config
    return "xl" if is_xl(config) else "2b"


def ranks_of(names: list[str], rank: int, others: Mapping[str, int]) -> dict[str, int]:
    """The rank of each module, from the longest key of ``others`` that its original name ends with, else ``rank``.

    Raises:
        AdapterError: a key matches none of the modules.
    """
    found, used = {}, set()
    for name in names:
        keys = [key for key in others if f".{name}".endswith(f".{key}")]
        found[name] = others[max(keys, key=len)] if keys else rank
        used.update(keys)
    if unused := [key for key in others if key not in used]:
        raise AdapterError(
            f"ranks has an entry for {unused[0]}, which is not trained",
            hint=f"Use names of trained modules, such as {names[0]}, or suffixes of them.",
        )
    return found


def module_from_underscores(name: str) -> str:
    """``layers_0_self_attn_q_proj`` -> ``layers.0.self_attn.q_proj``; unchanged when no rule fits."""
    for pattern, replacement in _UNDERSCORES:
        if pattern.fullmatch(name):
            return pattern.sub(replacement, name)
    return name


def unknown_modules(names: Iterable[str]) -> list[str]:
    """The original ``names`` that no ACE-Step 1.5 decoder has."""
    return [name for name in names if not _KNOWN.fullmatch(name)]


def shortest_names(names: list[str]) -> list[str]:
    """PEFT ``target_modules`` for ``names``: suffixes if every layer has the same modules, else full names."""
    layers: dict[str, list[int]] = {}
    for name in names:
        number, _, ending = name.removeprefix("layers.").partition(".")
        layers.setdefault(ending, []).append(int(number) if number.isdigit() else -1)
    depth = max(map(len, layers.values()))
    return list(layers) if all(sorted(found) == list(range(depth)) for found in layers.values()) else names
