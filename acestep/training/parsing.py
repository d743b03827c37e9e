"""Builds a ``TrainJob`` from flags, presets, JSON files and ``key=value`` pairs. Does not import torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import assign, fields, groups, parse
from acestep.core.errors import ConfigError, TrainingError
from acestep.core.files import read_json
from acestep.core.registry import nearest_hint
from acestep.training.configs import DEFAULT_PRESET, TrainJob
from acestep.training.presets import read_preset
from acestep.training.state.run_folder import RunFolder


def set_value(job: TrainJob, key: str, value: Any) -> None:
    """Set one setting by its qualified name ``lora.dropout``, or ``dropout`` for the chosen adapter kind.

    Settings of the audio previews need their qualified name, ``samples.prompt``.
    Text is parsed as the field's type; ``none`` clears an optional field.

    Raises:
        ConfigError: unknown setting or invalid value.
    """
    owner, name = _find(key, job.training.adapter_type)
    config = getattr(job, owner)
    may_be_empty = type(None) in get_args(fields(type(config))[name].annotation)
    assign(config, name, None if may_be_empty and str(value).strip().lower() in ("", "none", "null") else value)


def _find(key: str, adapter_type: str) -> tuple[str, str]:
    known = {f"{owner}.{name}": (owner, name) for owner, kind in groups(TrainJob).items() for name in fields(kind)}
    for name in (key, f"training.{key}", f"{adapter_type}.{key}"):
        if name in known:
            return known[name]
    matches = [pair for pair in known.values() if pair[1] == key and pair[0] != "samples"]
    if len(matches) == 1:  # only one other adapter kind has this setting
        return matches[0]
    plain = [name for owner, name in known.values() if owner in ("training", adapter_type)]
    raise ConfigError([f"unknown setting {key!r}"], hint=nearest_hint(key, [*known, *plain]))


def train_job_from_flags(
    flags: Mapping[str, Any], config: Path | None, settings: Iterable[str], preset: str | None = None
) -> TrainJob:
    """Build the job of a command line. Later sources win: flags, preset, JSON file of settings, ``key=value`` pairs.

    The default preset is ``recommended``. A run that resumes with "auto" keeps its settings unless they are given.

    Raises:
        ConfigError: all invalid settings; UnknownName for the preset.
        TrainingError: the file cannot be read, or the folder of a new run holds another run.
    """
    job = parse(TrainJob, flags)
    kept = RunFolder(job.out).read_settings() if job.resume == "auto" else {}
    job = parse(TrainJob, {**kept, **flags})
    pairs = list(_from_file(config).items()) if config else []
    problems: list[str] = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if equals:
            pairs.append((key.strip(), value.strip()))
        else:
            problems.append(f"{setting!r} must have the form key=value")
    if preset or not kept:
        pairs = [*_of_preset(preset or DEFAULT_PRESET, pairs), *pairs]
    for key, value in sorted(
        pairs, key=lambda pair: not pair[0].endswith("adapter_type")
    ):  # the adapter kind first: a plain name such as r depends on it
        try:
            set_value(job, key, value)
        except ConfigError as error:
            problems += [f"{problem} ({error.hint})" if error.hint else problem for problem in error.problems]
    problems += [_idle_ranks(key, job) for key, value in pairs if value and key.endswith(".ranks")]
    if problems := [problem for problem in problems if problem]:
        raise ConfigError(problems)
    if job.resume is None:
        RunFolder(job.out).require_empty()
    return job


def _idle_ranks(key: str, job: TrainJob) -> str:
    """Why ranks per module, as ``estimate`` suggests, do not apply to the adapter kind of the run; "" if they do."""
    kind, chosen = key.partition(".")[0], job.training.adapter_type
    if kind == chosen or kind not in ADAPTERS or not ADAPTERS[kind].has_ranks:
        return ""
    if ADAPTERS[chosen].has_ranks:
        return f"{key} is for {ADAPTERS[kind].label}, but this run trains {chosen}: run estimate for that kind"
    return f"{key} is for {ADAPTERS[kind].label}: {ADAPTERS[chosen].label} uses the same size for all modules"


def _of_preset(name: str, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The settings of a preset for the adapter kind in ``pairs``."""
    asked = [str(value) for key, value in pairs if key.rpartition(".")[2] == "adapter_type"]
    kind = asked[-1] if asked and asked[-1] in ADAPTERS.names else "lora"
    return list(read_preset(name, kind).settings.items())


def _from_file(path: Path) -> dict[str, Any]:
    """Qualified or plain names -> values; keys that begin with an underscore are comments."""
    content = read_json(path, error=TrainingError, hint="Choose a JSON file of settings.")
    if not isinstance(content, dict):
        raise ConfigError([f"{path} is not a JSON object of settings"])
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key in groups(TrainJob) and isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif not key.startswith("_"):
            found[key] = value
    return found
