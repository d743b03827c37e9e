"""Presets of Side-Step, both ways. Its files are read as plain data; nothing in them is ever evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config
from acestep.core.errors import ConfigError
from acestep.core.files import read_json, write_json
from acestep.training.configs import TrainingConfig
from acestep.training.interop import sidestep_keys as sidestep
from acestep.training.optim.optimizers import peak_lr
from acestep.training.settings import Remark, Settings, fit, values_of

_PROJECTIONS = ("target_modules_str", "self_target_modules_str", "cross_target_modules_str")


@dataclass(frozen=True, slots=True)
class Imported:
    """What a file of Side-Step means here. ``settings`` are checked; ``remarks`` name the rest, with the reasons."""

    name: str
    description: str
    settings: Settings
    remarks: list[Remark]


def is_sidestep(data: Any) -> bool:
    """Whether the content of a JSON file is a preset of Side-Step, or the settings of one of its runs."""
    if not isinstance(data, Mapping) or "schema_version" in data or "ui_state" in data:
        return False
    return len(data.keys() & sidestep.PRESET_MARKS) >= 3 or data.keys() >= sidestep.RUN_MARKS


def read_sidestep(path: Path) -> Imported:
    """A preset, or the ``training_config.json`` of a run with the adapter's file beside it. Missing keys stay unset.

    Raises:
        ConfigError: the file cannot be read or is not one of Side-Step's.
    """
    data = read_json(path, error=ConfigError, hint="Choose a preset that Side-Step has saved.")
    if not is_sidestep(data):
        raise ConfigError([f"{path} is not a preset of Side-Step"], hint="Profiles are opened with Load Profile.")
    beside = path.with_name("sidestep_adapter_config.json")
    if "rank" not in data and beside.is_file():
        adapter = read_json(beside, error=ConfigError)
        data = (adapter if isinstance(adapter, dict) else {}) | data
    return from_sidestep(data, name=path.stem)


def from_sidestep(data: Mapping[str, Any], *, name: str = "") -> Imported:
    """The settings that Side-Step's keys and values stand for."""
    given = _by_preset_names(data)
    remarks: list[Remark] = []
    kind = _settle_adapter(given, remarks)
    _settle_projections(given)
    _settle_best(given)
    _settle_memory(given)
    settings: Settings = {}
    for key, value in given.items():
        setting = _setting(key, kind)
        reason = _take(setting, value, settings) if setting else _why_lost(key, value, given, kind)
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
    """The content of a preset for Side-Step, all its keys, and the settings that it has no place for.

    ``configs`` are a ``TrainingConfig`` under "training" and those of the adapters under their names; a kind that
    is not given stands at its defaults. The last two arguments tell how music is made with the model.
    """
    own = values_of({group: configs.get(group) or owner() for group, owner in _groups().items()})
    kind, remarks = own["training.adapter_type"], list[Remark]()
    content = {key: own.get(_setting(key, kind), rule.here) for key, rule in sidestep.KEYS.items()}
    content |= {
        "use_dora": kind == "dora",
        "learning_rate": peak_lr(own["training.optimizer_type"], own["training.learning_rate"]),
        "crop_mode": "latent" if own["training.max_latent_length"] else "full",
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
    remarks += _not_told(own, kind)
    return {"name": name, "description": description, **content}, remarks


def write_sidestep(path: Path, configs: Mapping[str, Config], **about: Any) -> tuple[Path, list[Remark]]:
    """Write ``to_sidestep`` to ``path``, with ``.json`` at its end. Returns where it is, and the remarks.

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
    """The setting that is meant by a key of Side-Step, "" if there is none; kinds share the keys of their parent."""
    rule = sidestep.KEYS.get(key)
    setting = rule.setting if rule else sidestep.BEYOND_PRESETS.get(key, "")
    parent = ADAPTERS[kind].parent if kind in ADAPTERS else ""
    if parent and setting.startswith(f"{parent}."):
        setting = f"{kind}.{setting.removeprefix(f'{parent}.')}"
    return setting if setting.partition(".")[0] in _groups() else ""


def _not_told(own: Settings, kind: str) -> list[Remark]:
    """The settings in use, other than usual, for which a preset of Side-Step has no key or no such value."""
    told = {_setting(key, kind) for key in sidestep.KEYS}
    usual = values_of({group: owner() for group, owner in _groups().items()})
    lost = [key for key in own if key.partition(".")[0] in ("training", kind) and key not in told]
    remarks = [Remark(key, own[key], "Side-Step's presets have no such key") for key in lost if own[key] != usual[key]]
    alpha = own["lokr.linear_alpha"]
    if kind == "lokr" and alpha != max(1, round(alpha)):
        remarks.append(Remark("lokr.linear_alpha", alpha, "Side-Step takes whole numbers from 1"))
    return remarks


def _by_preset_names(data: Mapping[str, Any]) -> dict[str, Any]:
    """A copy under the names of presets, without notes, empty values and facts of a run."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        own = sidestep.ALIASES.get(key, key)
        if own.startswith("lokr_") and own != key and data.get("adapter_type") == "loha":
            own = own.replace("lokr_", "loha_")
        if value is None or key in ("name", "description", *sidestep.OF_THE_RUN) or (own != key and own in data):
            continue
        found[own] = value
    return found


def _settle_adapter(given: dict[str, Any], remarks: list[Remark]) -> str:
    """The kind that is asked for; one that is not here is taken out."""
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


def _settle_projections(given: dict[str, Any]) -> None:
    """Lists of layers that can be said by ``target_mlp`` become that; lists without effect go."""
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


def _settle_best(given: dict[str, Any]) -> None:
    """Here the number alone says it: 0 never keeps the best."""
    wanted = _flag(given.pop("save_best", True))
    after = _number(given.get("save_best_after"))
    if not wanted:
        given["save_best_after"] = 0
    elif after is not None:
        given["save_best_after"] = max(1, int(after))


def _settle_memory(given: dict[str, Any]) -> None:
    """Crop length in frames, checkpointing that is on or off, held-out songs in percent."""
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
    """Put the value into ``settings`` if it fits; in words what was changed, or why it does not."""
    group, _, name = setting.partition(".")
    if name == "scheduler_type" and value == "custom":
        return sidestep.NO_CODE
    try:
        settings[setting], change = fit(_groups()[group], name, value)
    except ConfigError as error:
        return str(error)
    return change


def _why_lost(key: str, value: Any, given: Mapping[str, Any], kind: str) -> str:
    """Why a key that is no setting here cannot be kept; "" if nothing is lost."""
    rule = sidestep.KEYS.get(key)
    if rule is None:
        return "there is no such setting here"
    if rule.part_of in sidestep.KEYS and not _number(given.get(rule.part_of)):
        return ""  # what it belongs to is off
    if rule.part_of not in ("", kind, *sidestep.KEYS):
        return ""  # another adapter is asked for
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
    return number if abs(number) < float("inf") else None  # NaN is not below it either


def _flag(value: Any) -> bool:
    return value.strip().lower() in ("true", "1", "yes", "on") if isinstance(value, str) else bool(value)
