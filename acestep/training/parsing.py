"""Builds a ``TrainJob`` from flags, presets, JSON files and ``key=value`` pairs. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from loguru import logger

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import assign, fields, groups, parse
from acestep.core.errors import AceStepError, ConfigError, TrainingError
from acestep.core.files import read_json
from acestep.core.job_folder import JobFolder
from acestep.core.paths import typed_path
from acestep.core.registry import nearest_hint
from acestep.tensors.manifest import read_manifest
from acestep.training.configs import DEFAULT_PRESET, TrainJob
from acestep.training.presets import read_preset, recommend_epochs
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
    flags: Mapping[str, Any],
    config: Path | None,
    settings: Iterable[str],
    preset: str | None = None,
    report: Callable[[str], object] = logger.info,
) -> TrainJob:
    """Build the job of a command line. Later sources win: flags, preset, JSON file of settings, ``key=value`` pairs.

    The default preset is ``recommended``, with the number of epochs that is recommended for the number of songs. A
    run that resumes with "auto" keeps its settings unless they are given.

    Args:
        report: receives one line for each setting of the preset that does not apply, and for recommended epochs.

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
        chosen = _chosen_kind(pairs) or (job.training.adapter_type if kept else None)
        of_preset = _of_preset(preset or DEFAULT_PRESET, chosen, report)
        given = {key.removeprefix("training.") for key, _ in (*pairs, *(of_preset if preset else ()))}
        pairs = [*of_preset, *_recommended(job, given, report), *pairs]
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


def resume_of_launched(job: TrainJob) -> str | None:
    """What a run that torchrun or SLURM started resumes from: both may run the same command again.

    "auto" if ``job.out`` holds the same run and it has not finished, otherwise ``job.resume``. A checkpoint of this run
    that the command names is respected.
    """
    run, folder = RunFolder(job.out), JobFolder(job.out)
    if not folder.exists or folder.state == "done":
        return job.resume
    _, recorded = folder.read_job()
    if any(recorded.get(name) != str(getattr(job, name)) for name in ("tensor_dir", "checkpoint")):
        return job.resume
    if job.resume is not None:
        is_inside = run.root.resolve() in typed_path(job.resume).resolve().parents
        if is_inside or run.latest_checkpoint() is None:
            return job.resume
    return "auto"


def _idle_ranks(key: str, job: TrainJob) -> str:
    """Why ranks per module, as ``estimate`` suggests, do not apply to the adapter kind of the run; "" if they do."""
    kind, chosen = key.partition(".")[0], job.training.adapter_type
    if kind == chosen or kind not in ADAPTERS or not ADAPTERS[kind].has_ranks:
        return ""
    if ADAPTERS[chosen].has_ranks:
        return f"{key} is for {ADAPTERS[kind].label}, but this run trains {chosen}: run estimate for that kind"
    return f"{key} is for {ADAPTERS[kind].label}: {ADAPTERS[chosen].label} uses the same size for all modules"


def _chosen_kind(pairs: list[tuple[str, Any]]) -> str | None:
    """The adapter kind in ``pairs``, None if they name none, or one that does not exist."""
    named = [str(value) for key, value in pairs if key.rpartition(".")[2] == "adapter_type"]
    return named[-1] if named and named[-1] in ADAPTERS.names else None


def _of_preset(name: str, chosen: str | None, report: Callable[[str], object]) -> list[tuple[str, Any]]:
    """The settings of a preset for the chosen adapter kind."""
    preset = read_preset(name, chosen)
    for remark in preset.remarks:
        report(f"Preset {preset.name}: {remark}.")
    return list(preset.settings.items())


def _recommended(job: TrainJob, given: set[str], report: Callable[[str], object]) -> list[tuple[str, Any]]:
    """The recommended epochs for the number of songs, if the run is new and its epochs are not ``given``."""
    if "max_epochs" in given or job.resume is not None:
        return []
    try:
        songs = len(read_manifest(job.tensor_dir).paths)
    except AceStepError:  # reported when the run loads them
        songs = 0
    if not songs:
        return []
    recommended = dict(zip(("max_epochs", "save_every_n_epochs"), recommend_epochs(songs), strict=True))
    found = {name: value for name, value in recommended.items() if name not in given}
    report(f"Recommended for {songs} song{'s' * (songs != 1)}: {', '.join(f'{k}={v}' for k, v in found.items())}.")
    return [(f"training.{name}", value) for name, value in found.items()]


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
