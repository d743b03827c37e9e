"""The model card of an adapter: the README.md in its folder, generated from its metadata."""

from __future__ import annotations

import json
from typing import Any, get_args

from acestep.adapters.configs import ADAPTERS
from acestep.adapters.metadata import AdapterMetadata
from acestep.dataset.prompt import caption_with_tag
from acestep.dataset.sample import TagPosition
from acestep.exporting.targets import ExportTarget

README = "README.md"

_USAGE_UNKNOWN = "See the documentation of {}."
_LICENSE = "not stated. Ask the author, and respect the rights to the training songs and the license of the base model."


def sample_prompt(meta: AdapterMetadata) -> str:
    """A prompt for the style: the one in the metadata, else the trigger word with a generic prompt."""
    prompt = meta.facts.get("sample_prompt")
    if isinstance(prompt, str) and prompt:
        return prompt
    return caption_with_tag("a melodic song with a clear beat", meta.trigger_word, tag_position(meta))


def tag_position(meta: AdapterMetadata) -> TagPosition:
    """Position of the trigger word in the captions; the beginning if unknown."""
    return next((each for each in get_args(TagPosition) if each == meta.tag_position), "prepend")


def model_card(
    name: str, meta: AdapterMetadata, *, target: ExportTarget, form: str, residual: float, strength: str = ""
) -> str:
    """Text of the model card.

    Args:
        target: the program that the adapter was exported to.
        form: what the adapter was converted to.
        residual: relative error of the conversion.
        strength: what the strength of the program does; empty if unknown.
    """
    kind = ADAPTERS[meta.kind].label if meta.kind in ADAPTERS.names else meta.kind
    base = f"{meta.base_model or 'not stated'} ({meta.family or 'unknown'} family, {meta.variant or 'unknown variant'})"
    trigger = (
        f"`{meta.trigger_word}`, {meta.tag_position or 'anywhere'} in the caption" if meta.trigger_word else "none"
    )
    lines = [
        _header(meta),
        f"# {name}",
        f"A {kind} for the ACE-Step 1.5 music model.",
        f"- Base model: {base}. It does not work with models of another family.\n"
        f"- Trigger word: {trigger}\n"
        f"- Sample prompt: {sample_prompt(meta)}\n"
        f"- License: {meta.facts.get('license') or _LICENSE}",
        "## Use",
        target.usage or _USAGE_UNKNOWN.format(target.label),
        strength,
        f"Written as {form}; relative difference to the trained adapter: {residual:.2g}.",
        "## Training",
        "\n".join(f"- {key}: {value}" for key, value in _facts(meta).items()) or "Unknown.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _header(meta: AdapterMetadata) -> str:
    """The YAML metadata that model hubs read."""
    values: dict[str, Any] = {"tags": ["ace-step", "music", "text-to-audio", meta.kind or "adapter"]}
    if meta.base_model:
        values["base_model"] = meta.base_model
    if meta.trigger_word:
        values["instance_prompt"] = meta.trigger_word
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---"])


def _facts(meta: AdapterMetadata) -> dict[str, Any]:
    facts = {
        "kind": meta.kind,
        **meta.config,
        "attention": meta.attention_type,
        "MLP": meta.train_mlp,
        "epochs": meta.epochs,
        "steps": meta.steps,
        **{key: value for key, value in meta.facts.items() if key not in ("sample_prompt", "license")},
        "songs and labels": meta.dataset_hash,
        "program": meta.program,
    }
    return {key: value for key, value in facts.items() if value not in ("", None, 0, {})}
