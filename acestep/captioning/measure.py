"""What was measured beside what a model said: which counts, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from acestep.audio.analysis import Analysis, same_key
from acestep.captioning.schema import Description

MEASURED = "measured"
METADATA = ("bpm", "keyscale", "timesignature")
_WORDS = {"bpm": "tempo", "keyscale": "key", "timesignature": "beats"}

_CONFIDENCES = {"bpm": "bpm_confidence", "keyscale": "key_confidence", "timesignature": "meter_confidence"}
_LEAST = 0.1  # below it a measurement is no better than a guess: the tempo of noise has 0.03
_TOLERANCE = 0.04


@dataclass(frozen=True, slots=True)
class Verdict:
    """Values that count, each with who gave it, and sentences about where the two sides differ."""

    labels: dict[str, tuple[Any, str]]
    disagreements: list[str]


def measured_as_json(analysis: Analysis) -> dict[str, Any]:
    """A measurement as it stands in the label file under ``measured``."""
    return {**asdict(analysis), "bpm_alternatives": list(analysis.bpm_alternatives)}


def answered_as_json(said: Description, by: str) -> dict[str, Any]:
    """A model's metadata as they stand in the label file under ``answered``."""
    return {"by": by, "genre": said.genre, **{name: getattr(said, name) for name in METADATA}}


def weigh(measured: Mapping[str, Any], answered: Mapping[str, Any], *, prefer: str) -> Verdict:
    """Choose between measurement and model for each of tempo, key and meter.

    The preferred one counts where it has a value that can be trusted, the other one where it has not.
    """
    found = {name: value for name in METADATA if (value := _trusted(measured, name))}
    answers = {name: answered[name] for name in METADATA if answered.get(name)}
    by = str(answered.get("by") or "model")
    sides = [(found, MEASURED), (answers, by)]
    labels: dict[str, tuple[Any, str]] = {}
    for values, who in sides if prefer == MEASURED else sides[::-1]:
        for name, value in values.items():
            labels.setdefault(name, (value, who))
    both = [name for name in found if name in answers and _differ(name, found[name], answers[name])]
    return Verdict(labels, [f"{_WORDS[name]}: measured {found[name]}, {by} says {answers[name]}" for name in both])


def _trusted(measured: Mapping[str, Any], name: str) -> Any:
    """What is sure enough to be a label."""
    value, sure = measured.get(name), measured.get(_CONFIDENCES[name])
    if not value or not isinstance(sure, int | float) or sure < _LEAST:
        return None
    return round(value) if name == "bpm" else value


def _differ(name: str, found: Any, answered: Any) -> bool:
    if name == "keyscale":
        return not same_key(found, answered)
    if name == "bpm":
        return bool(abs(found / answered - 1) > _TOLERANCE)
    return bool(found != answered)
