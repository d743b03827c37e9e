"""Settings by qualified name, such as ``lora.r``. They are applied to configs all at once, or each if it is valid.

Presets, profiles and the files of other trainers are all converted to this form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from annotated_types import Ge, Le
from pydantic.fields import FieldInfo

from acestep.core.config import Config, assign, choices, fields, parse
from acestep.core.errors import ConfigError

Settings = dict[str, Any]  # "lora.r" -> 32

# Settings of ace-lora-trainer files that have no counterpart here, with the reason.
NOT_HERE = {
    "audio_normalization": "set during preprocessing",
    "dynamic_shift": "has no effect",
    "encoder_offloading": "the encoders are not loaded during training",
    "guidance_scale": "used by generation, not by training",
    "model_type": "read from the checkpoint",
    "num_inference_steps": "used by generation, not by training",
    "num_workers": "on a GPU, one thread draws the batches in advance",
    "output_dir": "set when a run is started",
    "pin_memory": "used on CUDA, without effect elsewhere",
    "shift": "used by generation, not by training",
    "torch_compile": "set by compile",
}


@dataclass(frozen=True, slots=True)
class Remark:
    """A setting of a file that was changed or ignored, and the reason."""

    key: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.key} = {self.value!r:.80}: {self.reason}"


def apply_all(settings: Settings, configs: Mapping[str, Config]) -> None:
    """Apply the settings to ``configs``, or none of them if a value is invalid.

    Raises:
        ConfigError: all invalid values.
    """
    wanted = {group: _of_group(settings, group) for group in configs}
    problems = []
    for group, config in configs.items():
        try:
            parse(type(config), config.model_dump() | wanted[group])
        except ConfigError as error:
            problems += [f"{group}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    for group, config in configs.items():
        for name, value in wanted[group].items():
            assign(config, name, value)


def apply_fitting(settings: Settings, configs: Mapping[str, Config]) -> list[Remark]:
    """Apply each valid setting to ``configs``. Returns a remark for each one that was changed or ignored."""
    remarks = []
    for group, config in configs.items():
        for name, value in _of_group(settings, group).items():
            try:
                fitted, change = fit(type(config), name, value)
                assign(config, name, fitted)
            except ConfigError as error:
                change = str(error)
            if change:
                remarks.append(Remark(f"{group}.{name}", value, change))
    return remarks


def fit(config_type: type[Config], name: str, value: Any) -> tuple[Any, str]:
    """A valid value for the field, and a message if it differs from ``value`` ("" if not).

    A choice can be given by its label ("AdamW 8-bit"). Numbers are clamped to the limits of the field.

    Raises:
        ConfigError: no such field, or no valid value.
    """
    change = ""
    if name in fields(config_type):
        field = fields(config_type)[name]
        value = _choice(field, value)
        value, change = _within_limits(field, value)
    probe = config_type.model_construct()
    assign(probe, name, value)
    return getattr(probe, name), change


def values_of(configs: Mapping[str, Config]) -> Settings:
    """All settings of ``configs`` as JSON values, without nested configs."""
    return {
        f"{group}.{name}": value
        for group, config in configs.items()
        for name, value in config.model_dump(mode="json").items()
        if not isinstance(getattr(config, name), Config)
    }


def _of_group(settings: Settings, group: str) -> dict[str, Any]:
    return {key.removeprefix(f"{group}."): value for key, value in settings.items() if key.startswith(f"{group}.")}


def _choice(field: FieldInfo, value: Any) -> Any:
    """The choice whose value or label matches ``value`` ("AdamW 8-bit"), else ``value``."""
    if not isinstance(value, str):
        return value
    spellings = ((choice, spelling) for choice, label in choices(field).items() for spelling in (choice, label))
    return next((choice for choice, spelling in spellings if _bare(spelling) == _bare(value)), value)


def _bare(text: str) -> str:
    return re.sub("[^a-z0-9]", "", text.lower())


def _within_limits(field: FieldInfo, value: Any) -> tuple[Any, str]:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return value, ""
    for limit in field.metadata:
        if isinstance(limit, Ge) and number < limit.ge:  # type: ignore[operator]
            return limit.ge, f"below the minimum; set to {limit.ge}"
        if isinstance(limit, Le) and number > limit.le:  # type: ignore[operator]
            return limit.le, f"above the maximum; set to {limit.le}"
    return value, ""
