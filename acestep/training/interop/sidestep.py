"""Reads and writes presets of Side-Step. Its files are parsed as plain JSON; nothing in them is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config
from acestep.core.errors import ConfigError
from acestep.core.files import read_json, write_json
from acestep.core.untrusted import is_file
from acestep.training.configs import TrainingConfig
from acestep.training.interop import sidestep_keys as sidestep
from acestep.training.optim.optimizers import peak_lr
from acestep.training.settings import Remark, Settings, fit, values_of

_PROJECTIONS = ("target_modules_str", "self_target_modules_str", "cross_target_modules_str")


@dataclass(frozen=True, slots=True)
class Imported:
    """An imported Side-Step file: validated ``settings``, and ``remarks`` on the keys that were changed or ignored."""

    name: str
    description: str
    settings: Settings
    remarks: list[Remark]


def is_sidestep(data: Any) -> bool:
    """Whether the content of a JSON file is a Side-Step preset, or the settings of a Side-Step run."""
    if not isinstance(data, Mapping) or "schema_version" in data or "ui_state" in data:
        return False
    return len(data.keys() & sidestep.PRESET_MARKS) >= 3 or data.keys() >= sidestep.RUN_MARKS


def read_sidestep(path: Path) -> Imported:
    """Read a preset, or the ``training_config.json`` of a run and its adapter config. Missing keys stay unset.

    Raises:
        ConfigError: the file cannot be read, or is not from Side-Step.
    """
    data = read_json(path, error=ConfigError, hint="Choose a preset saved by Side-Step.")
    if not is_sidestep(data):
        raise ConfigError([f"{path} is not a preset of Side-Step"], hint="Profiles are opened with Load Profile.")
    adapter_config = path.with_name("sidestep_adapter_config.json")
    if "rank" not in data and is_file(adapter_config):
        adapter = read_json(adapter_config, error=ConfigError)
        data = (adapter if isinstance(adapter, dict) else {}) | data
    return from_sidestep(data, name=path.stem)


def from_sidestep(data: Mapping[str, Any], *, name: str = "") -> Imported:
    """Convert the keys and values of Side-Step to settings."""
    given = _by_preset_names(data)
    remarks: list[Remark] = []
    kind = _resolve_adapter(given, remarks)
    _resolve_projections(given)
    _resolve_best(given)
    _resolve_memory(given)
    settings: Settings = {}
    for key, value in given.items():
        setting = _setting(key, kind)
        reason = _take(setting, value, settings) if setting else _reason_dropped(key, value, given, kind)
        if reason:
            remarks.append(Remark(key, value, reason))
    return Imported(str(data.get("name") or name), str(data.get("description") or ""), settings, remarks)


def to_sidestep(
    configs: Mapping[str, Config],
    *,
    name: str,
    description: str = "",
    shift: float = 3.0,
    num_inference_steps: int = 8,
) -> tuple[dict[str, Any], list[Remark]]:
    """The complete content of a Side-Step preset, and remarks on the settings that it cannot hold.

    ``configs`` holds a ``TrainingConfig`` under "training" and adapter configs under their names; missing ones take
    their defaults. The last two arguments are generation settings of the model.
    """
    own = values_of({group: configs.get(group) or owner() for group, owner in _groups().items()})
    kind, remarks = own["training.adapter_type"], list[Remark]()
    content = {key: own.get(_setting(key, kind), rule.here) for key, rule in sidestep.KEYS.items()}
    content |= {
        "use_dora": kind == "dora",
        "learning_rate": peak_lr(own["training.optimizer_type"], own["training.learning_rate"]),
        "crop_mode": "latent" if own["training.max_latent_length"] else "full",
        "gradient_checkpointing": own["training.gradient_checkpointing"] != "off",
        "save_best": own["training.auto_save_best_after"] > 0,
        "val_split": own["training.validation_percent"] / 100,
        "lokr_linear_alpha": max(1, round(own["lokr.linear_alpha"])),
        "shift": shift,
        "num_inference_steps": num_inference_steps,
    }
    for key, most in sidestep.MAXIMA.items():
        if content[key] > most:
            remarks.append(Remark(_setting(key, kind), content[key], f"Side-Step takes at most {most}"))
            content[key] = most
    remarks += _not_expressible(own, kind)
    return {"name": name, "description": description, **content}, remarks


def write_sidestep(path: Path, configs: Mapping[str, Config], **about: Any) -> tuple[Path, list[Remark]]:
    """Write ``to_sidestep`` to ``path``, with the suffix ``.json``. Returns the path and the remarks.

    Raises:
        DiskFull, NotWritable, StorageError.
    """
    path = path if path.suffix == ".json" else path.with_name(f"{path.name}.json")
    content, remarks = to_sidestep(configs, name=path.stem, **about)
    write_json(path, content)
    return path, remarks


def _groups() -> dict[str, type[Config]]:
    """Group of settings -> its config class: training, and each adapter kind."""
    return {"training": TrainingConfig} | {kind.name: kind.config for kind in ADAPTERS}


def _setting(key: str, kind: str) -> str:
    """The setting for a Side-Step key, "" if there is none; adapter types share the keys of their parent."""
    rule = sidestep.KEYS.get(key)
    setting = rule.setting if rule else sidestep.BEYOND_PRESETS.get(key, "")
    parent = ADAPTERS[kind].parent if kind in ADAPTERS else ""
    if parent and setting.startswith(f"{parent}."):
        setting = f"{kind}.{setting.removeprefix(f'{parent}.')}"
    return setting if setting.partition(".")[0] in _groups() else ""


def _not_expressible(own: Settings, kind: str) -> list[Remark]:
    """Remarks on non-default settings that a Side-Step preset has no key or no value for."""
    expressible = {_setting(key, kind) for key in sidestep.KEYS}
    defaults = values_of({group: owner() for group, owner in _groups().items()})
    lost = [key for key in own if key.partition(".")[0] in ("training", kind) and key not in expressible]
    remarks = [
        Remark(key, own[key], "Side-Step's presets have no such key") for key in lost if own[key] != defaults[key]
    ]
    alpha = own["lokr.linear_alpha"]
    if kind == "lokr" and alpha != max(1, round(alpha)):
        remarks.append(Remark("lokr.linear_alpha", alpha, "Side-Step takes whole numbers from 1"))
    return remarks


def _by_preset_names(data: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the key names of presets, without notes, empty values and run-specific keys."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        own = sidestep.ALIASES.get(key, key)
        if own.startswith("lokr_") and own != key and data.get("adapter_type") == "loha":
            own = own.replace("lokr_", "loha_")
        if value is None or key in ("name", "description", *sidestep.OF_THE_RUN) or (own != key and own in data):
            continue
        found[own] = value
    return found


def _resolve_adapter(given: dict[str, Any], remarks: list[Remark]) -> str:
    """The requested adapter type; an unsupported one is removed and reported."""
    kind = str(given.get("adapter_type", "lora")).lower()
    if kind == "lora" and _flag(given.get("use_dora")):
        kind = "dora"
    given.pop("use_dora", None)
    if kind not in ADAPTERS.names:
        given.pop("adapter_type", None)
        remarks.append(Remark("adapter_type", kind, f"{sidestep.NO_ADAPTER}; the adapter type stays as it is"))
    elif kind == "dora" or "adapter_type" in given:
        given["adapter_type"] = kind
    return kind


def _resolve_projections(given: dict[str, Any]) -> None:
    """Replace layer lists by ``target_mlp`` where it is equivalent; drop lists without effect."""
    attention, mlp = set(sidestep.ATTENTION.split()), set(sidestep.MLP.split())
    for key in _PROJECTIONS:
        if key not in given:
            continue
        value = given[key]
        names = set(value.split() if isinstance(value, str) else value if isinstance(value, list) else ())
        unused = key != _PROJECTIONS[0] and given.get("attention_type", "both") != "both"
        if unused or names in (attention, attention | mlp):
            del given[key]
        if not unused and names == attention | mlp:
            given["target_mlp"] = True


def _resolve_best(given: dict[str, Any]) -> None:
    """One number stands for two keys here: 0 disables saving the best model."""
    enabled = _flag(given.pop("save_best", True))
    after = _number(given.get("save_best_after"))
    if not enabled:
        given["save_best_after"] = 0
    elif after is not None:
        given["save_best_after"] = max(1, int(after))


def _resolve_memory(given: dict[str, Any]) -> None:
    """Convert the crop length to frames, the checkpointing ratio to on or off, the validation split to percent."""
    seconds = _number(given.pop("chunk_duration", None))
    if seconds is not None and not _number(given.get("max_latent_length")):
        given["max_latent_length"] = round(seconds * sidestep.FRAMES_PER_S)
    given.pop("crop_mode", None)
    share = _number(given.get("gradient_checkpointing_ratio"))
    if share == 0:
        given["gradient_checkpointing"] = False
    if not _flag(given.get("gradient_checkpointing", True)):
        given.pop("gradient_checkpointing_ratio", None)
    held_out = _number(given.get("val_split"))
    if held_out is not None:
        given["val_split"] = round(100 * held_out)


def _take(setting: str, value: Any, settings: Settings) -> str:
    """Store the value in ``settings`` if it is valid; gives what was changed, or why it is invalid."""
    group, _, name = setting.partition(".")
    if name == "scheduler_type" and value == "custom":
        return sidestep.NO_CODE
    try:
        settings[setting], change = fit(_groups()[group], name, value)
    except ConfigError as error:
        return str(error)
    return change


def _reason_dropped(key: str, value: Any, given: Mapping[str, Any], kind: str) -> str:
    """Why a key without a setting here is dropped; "" if nothing is lost."""
    rule = sidestep.KEYS.get(key)
    if rule is None:
        return "there is no such setting here"
    if rule.part_of in sidestep.KEYS and not _number(given.get(rule.part_of)):
        return ""  # its feature is disabled
    if rule.part_of not in ("", kind, *sidestep.KEYS):
        return ""  # it belongs to another adapter type
    return "" if _same(value, rule.here) else rule.why


def _same(value: Any, other: Any) -> bool:
    if isinstance(other, bool):
        return _flag(value) == other
    return _number(value) == other if isinstance(other, int | float) else str(value).strip() == other


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None  # NaN fails the comparison too


def _flag(value: Any) -> bool:
    return value.strip().lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)
