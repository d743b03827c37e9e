"""What the strength control of each program does with each form of an adapter. The model card quotes it.

Sources: PEFT 0.21 (``LoraLayer.set_scale``), LyCORIS 4.1.3 (``weight_decompose``), comfy/weight_adapter of ComfyUI, and
``set_lora_scale`` of the ACE-Step app, which limits the strength to 0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping

from acestep.adapters.other_formats import DIFF
from acestep.exporting.delta import ModuleTensors

_LINEAR = "The strength multiplies the weight change: 0 is the base model, 1 is as trained."
_PEFT_DORA = "The strength multiplies B·A and keeps the trained magnitudes, also at 0: {} for the base model."
_INTERPOLATED = (
    "The strength interpolates linearly between the base model (0) and the trained model (1). At other strengths, the "
    "ACE-Step app gives another output."
)

LORA, DORA, LOHA, LOKR, DECOMPOSED_LOKR, FULL = "lora", "dora", "loha", "lokr", "lokr with magnitudes", "diff"
FULL_WITH_MAGNITUDES = "diff of an adapter with magnitudes"

STRENGTHS: dict[str, dict[str, str]] = {
    "acestep": {
        LORA: _LINEAR,
        DORA: _PEFT_DORA.format("turn the adapter off"),
        LOHA: "The strength has no effect: the app applies a LoHa as trained. Export it with another strength instead.",
        LOKR: _LINEAR,
        DECOMPOSED_LOKR: "The strength multiplies the change of the magnitudes, not of the direction, which is also in "
        "effect at 0: unload the adapter for the base model.",
    },
    "comfyui": {
        LORA: _LINEAR,
        LOHA: _LINEAR,
        LOKR: _LINEAR,
        FULL: _LINEAR,
        FULL_WITH_MAGNITUDES: _INTERPOLATED,
    },
    "diffusers": {LORA: _LINEAR, DORA: _PEFT_DORA.format("call `disable_lora()`")},
}
"""Program -> form -> effect of its strength."""


def strength_effect(program: str, modules: Mapping[str, ModuleTensors], *, has_magnitudes: bool) -> str:
    """The effect of the strength of ``program`` on ``modules``; empty if it is not known.

    Args:
        modules: the weights that the program loads, by part.
        has_magnitudes: whether the trained adapter is a DoRA or a LoKr with weight decomposition.
    """
    known = STRENGTHS.get(program, {})
    forms = dict.fromkeys(_form(parts, has_magnitudes=has_magnitudes) for parts in modules.values())
    return " ".join(dict.fromkeys(known[form] for form in forms if form in known))


def _form(parts: ModuleTensors, *, has_magnitudes: bool) -> str:
    if DIFF in parts:
        return FULL_WITH_MAGNITUDES if has_magnitudes else FULL
    if "lora_A" in parts:
        return DORA if "lora_magnitude_vector" in parts else LORA
    if "hada_w1_b" in parts:
        return LOHA
    return DECOMPOSED_LOKR if "dora_scale" in parts else LOKR
