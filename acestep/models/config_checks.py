"""Checks of the config.json files of a checkpoint, before a module is built from them. Does not import torch.

The limits are far above every published model. They keep a damaged or hostile file from taking all memory or time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acestep.core.errors import CheckpointError
from acestep.core.untrusted import shorten

MAX_LAYERS = 256
MAX_WIDTH = 2**18
_MAX_CODES = 2**20  # entries of a quantizer's codebook; published: 64,000
_MAX_SHOWN = 60
_LAYER_TYPES = ("full_attention", "sliding_attention")
_HINT = "Download the model again."

# Key -> lower limit (exclusive) and upper limit of a number.
_NUMBERS: dict[str, tuple[float, float]] = {
    "rope_theta": (0.0, 1e12),
    "rms_norm_eps": (0.0, 1.0),
    "timestep_mu": (-100.0, 100.0),
    "timestep_sigma": (0.0, 100.0),
}
_FSQ_LEVELS = "fsq_input_levels"
_LIST_LIMITS = {_FSQ_LEVELS: 4096, "downsampling_ratios": 1024, "channel_multiples": 1024}
_OPTIONAL = tuple(
    f"encoder_{key}" for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
)


def check_config(where: Path, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Check the values of a DiT ``config`` for the keys of ``defaults``.

    Raises:
        CheckpointError: the first value that has another type than its default, or is out of range.
    """
    for key, default in defaults.items():
        value = config[key]
        if isinstance(default, int):
            _require_size(where, key, value)
        elif isinstance(default, float):
            _require_number(where, key, value, *_NUMBERS[key])
        elif isinstance(default, list):
            _require_sizes(where, key, value)
    for key in _OPTIONAL:
        if config.get(key) is not None:
            _require_size(where, key, config[key])
    if math.prod(config[_FSQ_LEVELS]) > _MAX_CODES:
        raise _problem(where, _FSQ_LEVELS, f"a list whose product is at most {_MAX_CODES:,}", config[_FSQ_LEVELS])
    if config["num_attention_heads"] % config["num_key_value_heads"]:
        expected = f"a divisor of num_attention_heads {config['num_attention_heads']}"
        raise _problem(where, "num_key_value_heads", expected, config["num_key_value_heads"])
    _check_layer_types(where, config["layer_types"], config["num_hidden_layers"])


def check_component_config(where: Path, config: Mapping[str, Any]) -> None:
    """Check the config of another component of the folder ``where``, such as the VAE: numbers and lists of sizes must
    be in a sane range, also in nested configs.

    Raises:
        CheckpointError: the first value that is out of range.
    """
    for key, value in config.items():
        if isinstance(value, dict):
            check_component_config(where, value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise _problem(where, key, "a finite number", value)
        elif key in _LIST_LIMITS:
            _require_sizes(where, key, value)
        elif isinstance(value, int) and not isinstance(value, bool):
            limit = MAX_LAYERS if key.endswith("_layers") else 2**31
            if not -1 <= value <= limit:
                raise _problem(where, key, f"an integer up to {limit:,}", value)


def _require_size(where: Path, key: str, value: object) -> None:
    limit = MAX_LAYERS if key.endswith("_layers") else MAX_WIDTH
    if type(value) is not int or not 1 <= value <= limit:
        raise _problem(where, key, f"an integer from 1 to {limit:,}", value)


def _require_number(where: Path, key: str, value: object, lower: float, upper: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not lower < value <= upper:
        raise _problem(where, key, f"a number above {lower:g} and up to {upper:g}", value)


def _require_sizes(where: Path, key: str, value: object) -> None:
    limit = _LIST_LIMITS[key]
    valid = isinstance(value, list) and 0 < len(value) <= 16 and all(type(n) is int and 1 <= n <= limit for n in value)
    if not valid:
        raise _problem(where, key, f"a list of up to 16 integers from 1 to {limit}", value)


def _check_layer_types(where: Path, types: object, num_layers: int) -> None:
    if types is None:
        return
    if not isinstance(types, list) or any(not isinstance(kind, str) or kind not in _LAYER_TYPES for kind in types):
        raise _problem(where, "layer_types", f"a list of {' and '.join(_LAYER_TYPES)}", types)
    if types and len(types) != num_layers:
        raise CheckpointError(
            f"{where}: layer_types in its config.json has {len(types)} entries, num_hidden_layers is {num_layers}",
            hint=_HINT,
        )


def _problem(where: Path, key: str, expected: str, value: object) -> CheckpointError:
    shown = shorten(repr(value), _MAX_SHOWN)
    return CheckpointError(f"{where}: {shorten(key)} in its config.json must be {expected}, got {shown}", hint=_HINT)
