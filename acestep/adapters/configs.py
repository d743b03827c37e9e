"""The kinds of adapters and their settings. Imports without torch: each entry names where its code is.

A new kind is a configuration class here, with its label and what other programs make of its files, and one
file beside this one.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from acestep.core.config import Config, fields, option
from acestep.core.registry import Registry

ATTENTION_TYPES = ("both", "self", "cross")
ADAPTERS: Registry[type[AdapterConfig]]


class AdapterConfig(Config):
    """Base of the settings of one kind. ``implementation`` is the dotted name of its class (adapters.base)."""

    implementation: ClassVar[str]


def _from_text(value: Any) -> Any:
    """Command lines and forms give text."""
    try:
        return json.loads(value or "{}") if isinstance(value, str) else value
    except json.JSONDecodeError:
        raise ValueError(f"ranks must be a JSON object of modules and ranks, got {value!r:.80}") from None


Ranks = Annotated[dict[str, Annotated[int, Field(ge=1, le=4096)]], BeforeValidator(_from_text)]


def _ranks() -> Any:
    """The field of kinds whose modules may differ in rank."""
    return option(
        {},
        "Ranks per module",
        'Other ranks for single modules, as JSON: {"layers.0.mlp.up_proj": 16} or, for all layers, {"up_proj": 16}.',
        advanced=True,
    )


ADAPTERS = Registry("adapter")


@ADAPTERS.register(
    "lora",
    label="LoRA",
    help="Two thin matrices beside each weight. Its file works in the ACE-Step app, ComfyUI and diffusers.",
)
class LoRAConfig(AdapterConfig):
    """Low-rank adaptation, W + (alpha / r) * B @ A.  https://arxiv.org/abs/2106.09685"""

    implementation = "acestep.adapters.lora:LoRAAdapter"

    r: int = option(64, "Rank", "Width of the two thin matrices: more learns more, and overfits sooner.", ge=1, le=4096)
    alpha: int = option(
        128, "Alpha", "The addition is scaled by alpha / rank; twice the rank is usual.", ge=1, le=65536
    )
    dropout: float = option(0.1, "Dropout", "Share of the adapter's inputs that a step leaves out.", ge=0.0, le=0.5)
    use_rslora: bool = option(
        False,
        "rsLoRA",
        "Scale by alpha / sqrt(rank) instead, which suits high ranks; an alpha of about twice the root of the rank "
        "then equals the usual strength.",
        advanced=True,
    )
    init: Literal["default", "pissa"] = option(
        "default",
        "Initialisation",
        "default starts beside the weights; pissa trains their strongest parts, which often learns faster. Its file "
        "has twice the rank, and it needs a base that is not quantised.",
        advanced=True,
    )
    ranks: Ranks = _ranks()


@ADAPTERS.register(
    "dora",
    label="DoRA",
    help="LoRA that learns the length of each row of a weight apart from its direction: a little better at low ranks, "
    "slower to train. Its file works in the ACE-Step app and diffusers; ComfyUI does not know it and plays something "
    "else.",
)
class DoRAConfig(LoRAConfig):
    """Weight-decomposed low-rank adaptation, m * (W + BA) / |W + BA|.  https://arxiv.org/abs/2402.09353"""

    implementation = "acestep.adapters.dora:DoRAAdapter"


@ADAPTERS.register(
    "lokr",
    label="LoKr",
    help="A Kronecker product beside each weight. Its file works in the ACE-Step app and ComfyUI, not in diffusers.",
)
class LoKRConfig(AdapterConfig):
    """Low-rank Kronecker product adaptation, W + kron(w1, w2).  https://arxiv.org/abs/2309.14859"""

    implementation = "acestep.adapters.lokr:LoKRAdapter"

    linear_dim: int = option(
        10000, "Linear dim", "Rank of the larger factor; from half its size on, it is kept whole.", ge=1, le=100000
    )
    linear_alpha: float = option(
        1.0,
        "Linear alpha",
        "The addition is scaled by alpha / dim. Without effect where both factors are whole.",
        gt=0.0,
        le=100000.0,
    )
    factor: int = option(-1, "Factor", "Size of the smaller factor; -1 makes both as equal as can be.", ge=-1, le=1024)
    decompose_both: bool = option(False, "Decompose both", "Split the smaller factor too, if the dim is below half.")
    use_tucker: bool = option(
        False,
        "Use Tucker",
        "For convolutions only; the trained modules have none, so it changes nothing.",
        advanced=True,
    )
    dropout: float = option(0.0, "Dropout", "Share of the adapter's outputs that a step leaves out.", ge=0.0, le=0.5)


@ADAPTERS.register(
    "loha",
    label="LoHa",
    help="Two thin products multiplied number by number: much variety from few numbers. Its file works in the "
    "ACE-Step app and ComfyUI, not in diffusers.",
)
class LoHaConfig(AdapterConfig):
    """Low-rank Hadamard product adaptation, W + (alpha / r) * (w1a @ w1b) * (w2a @ w2b).
    https://arxiv.org/abs/2108.06098"""

    implementation = "acestep.adapters.loha:LoHaAdapter"

    r: int = option(16, "Rank", "Width of the thin matrices; the addition reaches the square of it.", ge=1, le=1024)
    alpha: int = option(8, "Alpha", "The addition is scaled by alpha / rank; half the rank is usual.", ge=1, le=65536)
    dropout: float = option(0.0, "Dropout", "Share of the adapter's outputs that a step leaves out.", ge=0.0, le=0.5)
    ranks: Ranks = _ranks()


WITH_RANKS = tuple(entry.name for entry in ADAPTERS if "ranks" in fields(entry.make))
"""The kinds whose modules may differ in rank. A LoKr has one dim for all: its readers take it from its settings."""
