"""The model card of an adapter: README.md beside its files, made from what rides along in them."""

from __future__ import annotations

import json
from typing import Any, get_args

from acestep.adapters.card import AdapterCard
from acestep.adapters.configs import ADAPTERS
from acestep.dataset.prompt import caption_with_tag
from acestep.dataset.sample import TagPosition

README = "README.md"

_USE = {
    "acestep": "ACE-Step app: give this folder to the adapter box. It is called by the folder's name there.",
    "comfyui": "ComfyUI: put the .safetensors file into `models/loras` and load it with *Load LoRA* at strength 1.",
    "diffusers": "diffusers: `pipeline.load_lora_weights(folder)` on an `AceStepPipeline`.",
}
_LICENSE = (
    "not stated. Ask the maker, and respect the rights of the songs it was trained on and the base model's licence."
)


def sample_prompt(card: AdapterCard) -> str:
    """A prompt that calls the style: the one that rides along, else the trigger word before a plain one."""
    told = card.facts.get("sample_prompt")
    if isinstance(told, str) and told:
        return told
    return caption_with_tag("a melodic song with a clear beat", card.trigger_word, tag_position(card))


def tag_position(card: AdapterCard) -> TagPosition:
    """Where the trigger word stood in the captions; at their beginning if nobody told."""
    return next((each for each in get_args(TagPosition) if each == card.tag_position), "prepend")


def readme(name: str, card: AdapterCard, *, program: str, form: str, residual: float) -> str:
    """Text of the model card. ``form`` says what the adapter became for ``program``."""
    kind = ADAPTERS[card.kind].label if card.kind in ADAPTERS.names else card.kind
    base = f"{card.base_model or 'not stated'} ({card.family or 'unknown'} family, {card.variant or 'unknown variant'})"
    trigger = (
        f"`{card.trigger_word}`, {card.tag_position or 'anywhere'} in the caption" if card.trigger_word else "none"
    )
    lines = [
        _header(card),
        f"# {name}",
        f"A {kind} for the ACE-Step 1.5 music model, made with this trainer.",
        f"- Base model: {base}. It does not fit models of another family.\n"
        f"- Trigger word: {trigger}\n"
        f"- Sample prompt: {sample_prompt(card)}\n"
        f"- Licence: {card.facts.get('license') or _LICENSE}",
        "## Use",
        _USE.get(program, ""),
        f"Written as {form}; difference to the trained adapter {residual:.2g} of its size.",
        "## Training",
        "\n".join(f"- {key}: {value}" for key, value in _facts(card).items()) or "Nothing is known.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _header(card: AdapterCard) -> str:
    """What model hubs read."""
    values: dict[str, Any] = {"tags": ["ace-step", "music", "text-to-audio", card.kind or "adapter"]}
    if card.base_model:
        values["base_model"] = card.base_model
    if card.trigger_word:
        values["instance_prompt"] = card.trigger_word
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in values.items()), "---"])


def _facts(card: AdapterCard) -> dict[str, Any]:
    told = {
        "kind": card.kind,
        **card.config,
        "attention": card.attention_type,
        "MLP": card.train_mlp,
        "epochs": card.epochs,
        "steps": card.steps,
        **{key: value for key, value in card.facts.items() if key not in ("sample_prompt", "license")},
        "songs and labels": card.dataset_hash,
        "program": card.program,
    }
    return {key: value for key, value in told.items() if value not in ("", None, 0, {})}
