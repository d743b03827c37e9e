"""``captioner_config.json`` the settings of the captioner as a file, compatible with the captioner of ace-lora-trainer.

``ui_state`` has the names of that captioner; ``job`` has every setting by its name on the command line. API keys are in
neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acestep.captioning.configs import CaptionJob
from acestep.core.config import assign, fields
from acestep.core.errors import ConfigError
from acestep.core.files import read_json, write_json

NAME = "captioner_config.json"
_SCHEMA, _VERSION = "captioner_config", 1

_STATE = {  # key of ui_state -> key of the saved value
    "model_path_input": "caption.captioner_model",
    "transcriber_path_input": "caption.transcriber_model",
    "split_input_dir": "split.in",
    "split_output_dir": "split.out",
    "split_duration": "split.seconds",
    "caption_input_dir": "folder",
    "activation_tag_input": "caption.custom_tag",
    "max_tokens_input": "caption.max_tokens",
}
_LYRICS, _TABLE, _TABLE_PATH = "generate_lyrics_check", "save_csv_check", "csv_path_input"
_JOB = [name for name in fields(CaptionJob) if name not in ("audio_dir", "only")]
_TRANSCRIBER, _CSV = "caption.transcriber", "caption.csv"


def names() -> list[str]:
    """The keys of the saved values that are written to the file."""
    return list(dict.fromkeys([*_STATE.values(), *(f"caption.{name}" for name in _JOB)]))


def write(path: Path, saved_fields: Mapping[str, Any]) -> None:
    """Write saved values, and defaults for the others. Raises StorageError."""
    defaults = {f"caption.{name}": fields(CaptionJob)[name].get_default() for name in _JOB}
    values = {
        **defaults,
        "split.seconds": 30,
        **{key: value for key, value in saved_fields.items() if value is not None},
    }
    state = {key: _plain(values.get(name)) for key, name in _STATE.items()}
    state[_LYRICS] = values[_TRANSCRIBER] != "none"
    state[_TABLE], state[_TABLE_PATH] = bool(values[_CSV]), _plain(values[_CSV])
    job = {name: _plain(values[f"caption.{name}"]) for name in _JOB}
    write_json(path, {"schema": _SCHEMA, "version": _VERSION, "ui_state": state, "job": job})


def read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Saved values by key, and what was ignored. Raises ConfigError for another kind of file."""
    data = _mapping(read_json(path, error=ConfigError))
    state, job = data.get("ui_state"), _mapping(data.get("job"))
    if data.get("schema", _SCHEMA) != _SCHEMA or not isinstance(state, dict):
        raise ConfigError([f"{path} is not a config file of the captioner"], hint="Select another file.")
    ignored = [f"{key} is not known" for key in state if key not in (*_STATE, _LYRICS, _TABLE, _TABLE_PATH)]
    found = {name: state[key] for key, name in _STATE.items() if key in state}
    if _LYRICS in state:
        found[_TRANSCRIBER] = "local" if state[_LYRICS] is True else "none"
    if _TABLE in state:
        found[_CSV] = (state.get(_TABLE_PATH) or "captions.csv") if state[_TABLE] is True else ""
    for name, value in job.items():
        if name in _JOB:
            found[f"caption.{name}"] = value
        else:
            ignored.append(f"{name} is not known")
    values = {}
    for name, value in found.items():
        if problem := _problem(name, value):
            ignored.append(problem)
        else:
            values[name] = value
    return values, ignored


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> Any:
    """Numbers and booleans unchanged, everything else as text."""
    return value if isinstance(value, int | float) else "" if value is None else str(value)


def _problem(name: str, value: Any) -> str:
    """What is wrong with a value, "" if nothing."""
    group, _, field = name.partition(".")
    if group == "split" and field == "seconds":
        return "" if value in (30, 60) else f"split_duration cannot be {value!r}"
    if group != "caption":
        return "" if isinstance(value, str) else f"{name} must be text, got {value!r}"
    try:
        assign(CaptionJob.model_construct(), field, None if value == "" and field in ("csv", "checkpoints") else value)
    except ConfigError as error:
        return "; ".join(error.problems)
    return ""
