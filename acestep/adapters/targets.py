"""Which modules of the decoder an adapter sits on, and what they are called in the files of other programs.

In memory modules have diffusers' names (``layers.0.self_attn.to_q``), in adapter files the original ones
(``layers.0.self_attn.q_proj``, or with underscores in LyCORIS' files).
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

# Original names of every linear or convolution layer that an adapter of any trainer may sit on.
_LAYER = r"layers\.\d+\.((self_attn|cross_attn)\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_KNOWN = re.compile(rf"{_LAYER}|condition_embedder|time_embed(_r)?\.(linear_1|linear_2|time_proj)|proj_in\.1")
_UNDERSCORES = (
    (re.compile(r"layers_(\d+)_(self_attn|cross_attn|mlp)_(\w+)"), r"layers.\1.\2.\3"),
    (re.compile(r"(time_embed|time_embed_r)_(linear_1|linear_2|time_proj)"), r"\1.\2"),
    (re.compile(r"proj_in_1"), "proj_in.1"),
)


def target_modules(decoder: nn.Module, attention_type: str, train_mlp: bool) -> list[str]:
    """Names of the linear layers asked for, in the order of the decoder, and no others.

    Raises:
        AdapterError: unknown ``attention_type``, or a part that was asked for is not there.
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
            raise AdapterError(f"this model has no linear layer named like {part}", hint="Choose another target.")
    return [name for name in linear if any(re.fullmatch(part, name) for part in parts)]


def decoder_family(decoder: nn.Module) -> str:
    """ "xl" if the conditions are narrower than the decoder, else "2b"."""
    config: Any = decoder.config
    return "xl" if is_xl(config) else "2b"


def ranks_of(names: list[str], rank: int, others: Mapping[str, int]) -> dict[str, int]:
    """The rank of each module: that of the longest key of ``others`` that is its original name or the end of it.

    Raises:
        AdapterError: a key belongs to none of the modules.
    """
    found, used = {}, set()
    for name in names:
        keys = [key for key in others if f".{name}".endswith(f".{key}")]
        found[name] = others[max(keys, key=len)] if keys else rank
        used.update(keys)
    if idle := [key for key in others if key not in used]:
        raise AdapterError(
            f"a rank is set for {idle[0]}, which is not trained",
            hint=f"Use names of trained modules, such as {names[0]}, or their endings.",
        )
    return found


def module_from_underscores(name: str) -> str:
    """``layers_0_self_attn_q_proj`` -> ``layers.0.self_attn.q_proj``; unchanged when no rule fits."""
    for pattern, replacement in _UNDERSCORES:
        if pattern.fullmatch(name):
            return pattern.sub(replacement, name)
    return name


def unknown_modules(names: Iterable[str]) -> list[str]:
    """Those of the original ``names`` that no ACE-Step 1.5 decoder has."""
    return [name for name in names if not _KNOWN.fullmatch(name)]


def shortest_names(names: list[str]) -> list[str]:
    """What PEFT needs to find ``names``: their endings if all layers share them, or else the full names."""
    layers: dict[str, list[int]] = {}
    for name in names:
        number, _, ending = name.removeprefix("layers.").partition(".")
        layers.setdefault(ending, []).append(int(number) if number.isdigit() else -1)
    depth = max(map(len, layers.values()))
    return list(layers) if all(sorted(found) == list(range(depth)) for found in layers.values()) else names
