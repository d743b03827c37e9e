"""Presets: JSON files of settings in this folder, those by GPU memory in ``gpu/``, and users' own.

A file is one flat object: names of ``TrainingConfig``, and those of ``LoRAConfig`` and ``LoKRConfig`` with ``lora_``
or ``lokr_`` before them. ``adapters`` may hold further settings for each kind of adapter, ``adapter_type`` the kind to
train unless another one is chosen; keys that begin with an underscore are notes. Importing this does not import torch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger
from pydantic import create_model

from acestep.adapters.configs import ADAPTERS, AdapterConfig
from acestep.core.config import Config, fields, parse
from acestep.core.errors import ConfigError, UnknownName
from acestep.core.files import read_json
from acestep.core.paths import typed_path
from acestep.core.registry import nearest_hint
from acestep.core.untrusted import is_file
from acestep.training.configs import TrainingConfig
from acestep.training.settings import NOT_HERE, Remark, Settings, apply_all

FOLDER = Path(__file__).parent
GPU_FOLDER = FOLDER / "gpu"

# Nominal GPU memory in GB that a preset is for, largest first.
BY_MEMORY = ((24, "vram_24gb_plus"), (16, "vram_16gb"), (12, "vram_12gb"), (0, "vram_8gb"))
SHORTFALL = 0.1  # GPUs report up to this fraction less than their nominal memory: L4 22.0 of 24, T4 14.6 of 16

# Up to so many songs: epochs, and epochs between two checkpoints.
EPOCHS = ((0, 1000, 200), (3, 1500, 200), (6, 1000, 200), (10, 700, 100), (20, 500, 100), (50, 300, 50))
EPOCHS_BEYOND = (200, 50)

_DEFAULT_KIND = "lora"


def _qualified_names() -> dict[str, tuple[str, str]]:
    """Key of a preset file -> group and name of the setting."""
    return {name: ("training", name) for name in fields(TrainingConfig)} | {
        f"{kind.name}_{name}": (kind.name, name) for kind in ADAPTERS for name in fields(kind.config)
    }


def _file_config() -> type[Config]:
    """A config with all settings under the keys of a preset file."""
    owners: dict[str, type[Config]] = {"training": TrainingConfig} | {kind.name: kind.config for kind in ADAPTERS}
    declarations: dict[str, Any] = {}
    for key, (group, name) in _qualified_names().items():
        field = fields(owners[group])[name]
        declarations[key] = (field.annotation, copy.copy(field))
    return create_model("PresetFile", __base__=Config, **declarations)


@dataclass(frozen=True, slots=True)
class Preset:
    """A validated preset for one adapter kind: ``values`` by the keys of the file, ``settings`` by qualified name."""

    name: str
    label: str
    description: str
    values: dict[str, Any]
    remarks: tuple[Remark, ...]
    keeps_epochs: bool = False  # the number of epochs is the purpose of the preset, whatever the number of songs

    @property
    def settings(self) -> Settings:
        names = _qualified_names()
        return {".".join(names[key]): value for key, value in self.values.items()}


class SelectedPreset(str):
    """The name of a preset, and the ``reason`` for the selection."""

    reason: str

    def __new__(cls, name: str, reason: str = "") -> SelectedPreset:
        selected = super().__new__(cls, name)
        selected.reason = reason
        return selected


def list_presets() -> list[str]:
    """Names of the general presets, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if not path.stem.startswith("_"))


def gpu_presets() -> dict[str, str]:
    """Label -> name of the presets per GPU class, largest memory first."""
    contents = [(path.stem, _content(path)) for path in GPU_FOLDER.glob("*.json")]
    contents.sort(key=lambda found: -found[1]["_memory_gb"])
    return {content["_label"]: name for name, content in contents}


def read_preset(name: str | Path, adapter_type: str | None = None) -> Preset:
    """Read a preset by name or path, with its settings for one adapter kind.

    Args:
        adapter_type: the chosen kind. It overrides the kind that the file names, which then becomes a remark.
            None takes the kind that the file names, or LoRA.

    Raises:
        UnknownName: no preset or adapter kind of that name.
        ConfigError: the file cannot be read, or has invalid settings.
    """
    path = _find(name)
    content = _content(path)
    notes = {key: content.pop(key) for key in list(content) if key.startswith("_")}
    remarks = [Remark(key, content.pop(key), reason) for key, reason in NOT_HERE.items() if key in content]
    named = content.get("adapter_type")
    kind = ADAPTERS[adapter_type].name if adapter_type else named if named in ADAPTERS.names else _DEFAULT_KIND
    if adapter_type and named not in (None, kind):
        remarks.append(Remark("adapter_type", named, f"{kind} was chosen and is kept"))
    sections = content.pop("adapters", None)
    if sections is not None:
        content = {"adapter_type": kind} | _with_section(path, content, sections, kind)
    values = _checked(path, content)
    if "adapter_type" in values:
        values["adapter_type"] = kind
    return Preset(
        name=path.stem,
        label=str(notes.get("_label", path.stem)),
        description=str(notes.get("_description", "")),
        values=values,
        remarks=tuple(remarks),
        keeps_epochs=notes.get("_keep_epochs") is True,
    )


def load_preset(name: str | Path, adapter_type: str | None = None) -> dict[str, Any]:
    """The settings of a preset by the keys of its file, such as ``lora_r``. Arguments and errors of ``read_preset``."""
    return read_preset(name, adapter_type).values


def apply_preset(
    training_config: TrainingConfig, lora_config: AdapterConfig, name: str | Path, *others: AdapterConfig
) -> str:
    """Apply a preset to the configs, completely or not at all. Returns its description.

    The settings are those for ``training_config.adapter_type``. A file that names another kind changes it only if it
    was never set.

    Args:
        lora_config, others: the configs of adapter kinds; that of the trained kind is required, as far as the preset
            has settings for it.

    Raises:
        UnknownName, ConfigError: as ``read_preset``; or the config of the trained kind is missing.
    """
    was_chosen = "adapter_type" in training_config.model_fields_set
    preset = read_preset(name, training_config.adapter_type if was_chosen else None)
    trained = preset.values.get("adapter_type", training_config.adapter_type)
    kinds = {kind.config: kind.name for kind in ADAPTERS}
    configs: dict[str, Config] = {"training": training_config}
    configs |= {kinds[type(config)]: config for config in (lora_config, *others)}
    if trained not in configs and (missing := [key for key in preset.settings if key.startswith(f"{trained}.")]):
        raise ConfigError(
            [f"preset {preset.name} sets {', '.join(missing)}"],
            hint="Pass the config of that adapter kind to apply_preset as well.",
        )
    apply_all(preset.settings, configs)
    if not was_chosen:
        training_config.model_fields_set.discard("adapter_type")  # the next preset may choose again
    for remark in preset.remarks:
        logger.warning("preset {}: {}", preset.name, remark)
    return preset.description


def auto_select_preset() -> SelectedPreset:
    """The preset for the GPU of this machine, with the reason. Imports torch."""
    from acestep.models.device import choose_device, memory_total_bytes

    device = choose_device()
    if device.value == "mps":
        return SelectedPreset("recommended", f"{device.reason}; the 8-bit optimizer does not run on it")
    total = memory_total_bytes(device.value)
    if total is None:
        return SelectedPreset("vram_8gb", f"{device.reason}; this preset needs the least memory")
    chosen = preset_for_memory(total / 2**30)
    return SelectedPreset(chosen, f"{device.reason}; {chosen.reason}")


def preset_for_memory(total_gib: float) -> SelectedPreset:
    """The preset for a GPU that reports this many GiB, slightly less than its nominal size."""
    size, name = next((size, name) for size, name in BY_MEMORY if total_gib >= size * (1 - SHORTFALL))
    counts_as = f"counts as {size} GB or more" if size else f"is less than {BY_MEMORY[-2][0]} GB"
    return SelectedPreset(name, f"{total_gib:.1f} GiB of memory {counts_as}")


def recommend_epochs(num_songs: int) -> tuple[int, int]:
    """The recommended number of epochs for ``num_songs`` samples, and of epochs between checkpoints."""
    return next(((epochs, every) for most, epochs, every in EPOCHS if num_songs <= most), EPOCHS_BEYOND)


def _find(name: str | Path) -> Path:
    if not isinstance(name, Path | str):  # a value of a page
        raise ConfigError([f"a preset is a name or a path, got {name!r:.80}"])
    if isinstance(name, Path) or name.endswith(".json") or "/" in name or "\\" in name:
        return typed_path(str(name))
    for folder in (FOLDER, GPU_FOLDER):
        if is_file(folder / f"{name}.json"):
            return folder / f"{name}.json"
    known = [*list_presets(), *gpu_presets().values()]
    raise UnknownName([f"unknown preset {name!r}"], hint=f"{nearest_hint(name, known)} Or use the path of a JSON file.")


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path, error=ConfigError, hint=f"Presets of this program: {', '.join(list_presets())}.")
    if not isinstance(content, dict):
        raise ConfigError([f"{path} is not a preset"], hint="A preset is a JSON object of settings.")
    return content


def _checked(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The validated settings of a file by its keys. Raises ConfigError, which names the file."""
    try:
        checked = parse(_file_config(), content)
    except ConfigError as error:
        raise ConfigError([f"{path.name}: {problem}" for problem in error.problems]) from None
    return {key: getattr(checked, key) for key in content}


def _with_section(path: Path, content: dict[str, Any], sections: Any, adapter_type: str) -> dict[str, Any]:
    """The common settings of a file merged with those for one adapter kind, or for its parent kind.

    In the presets of this program, the common settings are those of a LoRA.
    """
    kinds = (adapter_type, ADAPTERS[adapter_type].parent)
    found = [kind for kind in kinds if isinstance(sections, dict) and kind in sections]
    if not found and path.is_relative_to(FOLDER):
        common = content | sections[_DEFAULT_KIND]
        return {key: value for key, value in common.items() if not key.startswith(f"{_DEFAULT_KIND}_")}
    if not found or not isinstance(sections[found[0]], dict):
        raise ConfigError(
            [f"{path.name} has no settings for the adapter {adapter_type!r}"], hint="Choose another preset or adapter."
        )
    merged = content | sections[found[0]]
    prefix, parent = f"{adapter_type}_", f"{found[0]}_"
    return {
        prefix + key.removeprefix(parent) if key.startswith(parent) else key: value for key, value in merged.items()
    }
