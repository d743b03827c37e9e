"""The metadata of an adapter file: base model, training settings and trigger word.

It is stored as the metadata of the safetensors file. It has no time stamp, so equal adapters give equal files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from acestep import __version__
from acestep.core.untrusted import parse_json


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterMetadata:
    """Metadata of one adapter. Unknown fields are empty, as in most files of other trainers.

    Attributes:
        base_model: folder name or repository of the base model it was trained on.
        family: "2b" or "xl"; an adapter works only with models of its family.
        variant: "turbo", "base", "sft", …
        trigger_word: the tag in the captions of the training data; ``tag_position`` is its place in the caption.
        kind, config: the name in ``ADAPTERS`` and the training config (r, alpha, …), before the scale was folded
            into the weights.
        dataset_hash: identifies the samples and labels of the training data.
        facts: other values of the run (learning rate, seed, number of samples, …).
        program: the program that wrote the file; this one writes "acestep " and its version.
    """

    base_model: str = ""
    family: str = ""
    variant: str = ""
    trigger_word: str = ""
    tag_position: str = ""
    kind: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    attention_type: str = ""
    train_mlp: bool | None = None
    steps: int = 0
    epochs: int = 0
    dataset_hash: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    program: str = ""

    @property
    def model_name(self) -> str:
        """The base model, for messages."""
        return f"{self.base_model or 'an unknown model'} ({self.family or 'unknown family'})"

    def tag(self) -> dict[str, str]:
        """``trigger_word`` and ``tag_position`` under the keys that ace-lora-trainer reads; empty without a tag."""
        if not self.trigger_word:
            return {}
        return {"trigger_word": self.trigger_word, "tag_position": self.tag_position}

    def with_config(self, kind: str, config: Mapping[str, Any]) -> AdapterMetadata:
        """The metadata with this kind, config and the version of this program."""
        return dataclasses.replace(self, kind=kind, config=dict(config), program=f"acestep {__version__}")

    def with_tag(self, settings: Mapping[str, Any]) -> AdapterMetadata:
        """The metadata with the tag of ``settings``, the JSON file beside the weights, unless it has one already."""
        if self.trigger_word or not isinstance(settings.get("trigger_word"), str):
            return self
        position = str(settings.get("tag_position") or "")
        return dataclasses.replace(self, trigger_word=settings["trigger_word"], tag_position=position)

    def to_file_metadata(self) -> dict[str, str]:
        """As strings, which safetensors requires; empty fields are omitted."""
        unknown = dataclasses.asdict(AdapterMetadata())
        known = {key: value for key, value in dataclasses.asdict(self).items() if value != unknown[key]}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}

    @classmethod
    def from_file_metadata(cls, file_metadata: Mapping[str, str]) -> AdapterMetadata:
        """Parse the metadata of a file; unknown keys and values of the wrong type are ignored."""
        found: dict[str, Any] = {}
        for each in dataclasses.fields(cls):
            wanted = bool if each.name == "train_mlp" else type(getattr(cls(), each.name))
            if each.name in file_metadata:
                value = file_metadata[each.name] if wanted is str else _plain(file_metadata[each.name])
                found |= {each.name: value} if type(value) is wanted else {}
        return cls(**found)


def _plain(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        return None
