"""What rides along in an adapter file: on what it was made, how, and the words that call it up.

Kept as the text metadata of the safetensors file; nothing in it depends on the clock, so that equal adapters
are equal files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from acestep import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterMetadata:
    """Facts about one adapter; empty where unknown (files of other trainers tell little).

    Attributes:
        base_model: folder name or repository of the checkpoint it was trained on.
        family: "2b" or "xl": an adapter fits only its own.
        variant: "turbo", "base", "sft", …
        trigger_word: the tag the songs were trained with; ``tag_position`` says where it stood in the caption.
        kind, config: the name in ``ADAPTERS`` and the settings it was trained with (r, alpha, …), before its
            scale was folded into the weights.
        dataset_hash: which songs and labels it has seen.
        facts: anything else worth telling of the run (learning rate, seed, number of songs …), plain values.
        program: what wrote the file; starts with "acestep " if it was this program.
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
        """The model it was made for, in words."""
        return f"{self.base_model or 'an unnamed model'} ({self.family or 'unknown family'})"

    def tag(self) -> dict[str, str]:
        """``trigger_word`` and ``tag_position`` as other programs look for them; empty without a tag."""
        if not self.trigger_word:
            return {}
        return {"trigger_word": self.trigger_word, "tag_position": self.tag_position}

    def with_config(self, kind: str, config: Mapping[str, Any]) -> AdapterMetadata:
        """As it goes into a file of ours."""
        return dataclasses.replace(self, kind=kind, config=dict(config), program=f"acestep {__version__}")

    def with_tag(self, settings: Mapping[str, Any]) -> AdapterMetadata:
        """The same with the tag that stands in the JSON beside the weights, if it has none of its own."""
        if self.trigger_word or not isinstance(settings.get("trigger_word"), str):
            return self
        position = str(settings.get("tag_position") or "")
        return dataclasses.replace(self, trigger_word=settings["trigger_word"], tag_position=position)

    def to_file_metadata(self) -> dict[str, str]:
        """Strings only, as safetensors demands; what is empty is left out."""
        unknown = dataclasses.asdict(AdapterMetadata())
        known = {key: value for key, value in dataclasses.asdict(self).items() if value != unknown[key]}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}

    @classmethod
    def from_file_metadata(cls, file_metadata: Mapping[str, str]) -> AdapterMetadata:
        """Undo ``to_metadata``; what other programs wrote beside it, or in another form, is left out."""
        found: dict[str, Any] = {}
        for each in dataclasses.fields(cls):
            wanted = bool if each.name == "train_mlp" else type(getattr(cls(), each.name))
            if each.name in file_metadata:
                value = file_metadata[each.name] if wanted is str else _plain(file_metadata[each.name])
                found |= {each.name: value} if type(value) is wanted else {}
        return cls(**found)


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
