"""The registry of adapter kinds and the config of each. Importing this module does not import torch.

To add a kind, write its config class and register it here, and put its implementation (``adapters.base.Adapter``) into
one module beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from acestep.adapters import memory
from acestep.core.config import Config, fields, option
from acestep.core.registry import Entry, Registry
from acestep.core.untrusted import parse_json

if TYPE_CHECKING:
    pass

ATTENTION_TYPES = ("both", "self", "cross")


class AdapterConfig(Config):
    """Base class for the config of an adapter kind."""

    @property
    def needs_exact_weights(self) -> bool:
        """Whether the adapter cannot be trained on a quantized base model."""
        return False


def _from_text(value: Any) -> Any:
    """Parse JSON text, which command lines and forms pass."""
    try:
        return parse_json(value or "{}") if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"ranks must be a JSON object of modules and ranks, got {value!r:.80}") from None


Ranks = Annotated[dict[str, Annotated[int, Field(ge=1, le=4096)]], BeforeValidator(_from_text)]


def ranks_option() -> Any:
    """The ``ranks`` field of kinds whose modules may have different ranks."""
    return option(
        {},
        "Ranks per module",
        'Ranks of individual modules as JSON: {"layers.0.mlp.up_proj": 16} or, for all layers, {"up_proj": 16}.',
        advanced=True,
    )


class LoRAConfig(AdapterConfig):
    """Low-rank adaptation, W + (alpha / r) * B @ A.  https://arxiv.org/abs/2106.09685"""

    r: int = option(
        64, "Rank", "Rank of the update matrices. Higher ranks learn more and overfit sooner.", ge=1, le=4096
    )
    alpha: int = option(128, "Alpha", "The update is scaled by alpha / rank; twice the rank is common.", ge=1, le=65536)
    dropout: float = option(0.1, "Dropout", "Dropout probability of the adapter's inputs.", ge=0.0, le=0.5)
    use_rslora: bool = option(
        False,
        "rsLoRA",
        "Scale by alpha / sqrt(rank) instead, which suits high ranks. An alpha of about twice the square root of the "
        "rank then gives the usual scale.",
        advanced=True,
    )
    init: Literal["default", "pissa"] = option(
        "default",
        "Initialization",
        "pissa starts from the principal components of the weights, which often converges faster. It saves a file of "
        "twice the rank and needs a base model that is not quantized.",
        advanced=True,
    )
    ranks: Ranks = ranks_option()

    @property
    def needs_exact_weights(self) -> bool:
        """PiSSA starts from the singular values of the weights."""
        return self.init == "pissa"


class DoRAConfig(LoRAConfig):
    """Weight-decomposed low-rank adaptation, m * (W + BA) / |W + BA|.  https://arxiv.org/abs/2402.09353"""


class LoKRConfig(AdapterConfig):
    """Low-rank Kronecker product adaptation, W + kron(w1, w2).  https://arxiv.org/abs/2309.14859"""

    linear_dim: int = option(
        10000,
        "Linear dim",
        "Rank of the larger factor; from half its size on, it stays a full matrix.",
        ge=1,
        le=100000,
    )
    linear_alpha: float = option(
        1.0,
        "Linear alpha",
        "The update is scaled by alpha / dim. No effect if both factors are full matrices.",
        gt=0.0,
        le=100000.0,
    )
    factor: int = option(
        -1, "Factor", "Size of the smaller factor; -1 makes both as equal as possible.", ge=-1, le=1024
    )
    decompose_both: bool = option(
        False, "Decompose both", "Decompose the smaller factor too, if the dim is below half its size."
    )
    use_tucker: bool = option(
        False,
        "Use Tucker",
        "For convolutions only. No effect: none of the trained modules is a convolution.",
        advanced=True,
    )
    weight_decompose: bool = option(
        False,
        "Weight decompose",
        "Learn the magnitude of each weight row separately, as DoRA does. The default of the ACE-Step app. Slower to "
        "train. ComfyUI needs an export, which holds full weight differences.",
    )
    unbalanced_factorization: bool = option(
        False,
        "Unbalanced factorization",
        "Give the smaller factor the larger number of rows.",
        advanced=True,
    )
    dropout: float = option(0.0, "Dropout", "Dropout probability of the adapter's outputs.", ge=0.0, le=0.5)


class LoHaConfig(AdapterConfig):
    """Low-rank Hadamard product adaptation, W + (alpha / r) * (w1a @ w1b) * (w2a @ w2b).
    https://arxiv.org/abs/2108.06098"""

    r: int = option(16, "Rank", "Rank of both products; the update can have up to its square.", ge=1, le=1024)
    alpha: int = option(8, "Alpha", "The update is scaled by alpha / rank; half the rank is common.", ge=1, le=65536)
    dropout: float = option(0.0, "Dropout", "Dropout probability of the adapter's outputs.", ge=0.0, le=0.5)
    ranks: Ranks = ranks_option()


@dataclass(frozen=True, kw_only=True)
class AdapterEntry(Entry[Any]):
    """Facts about an adapter kind. The implementation is a class with the interface of ``adapters.base.Adapter``.

    Attributes:
        config: class of its settings.
        files: names of weights files that may hold it, the one that it is saved to first.
        memory_cost: what it needs on one linear layer.
        parent: the kind whose preset sections and Side-Step keys it shares.
    """

    config: type[AdapterConfig]
    files: tuple[str, ...] = ()
    memory_cost: memory.MemoryCost | None = None
    parent: str = ""

    @property
    def has_ranks(self) -> bool:
        """Whether modules may have different ranks. Readers of a LoKr file take one dim for all from its settings."""
        return "ranks" in fields(self.config)


ADAPTERS: Registry[AdapterEntry] = Registry("adapter", AdapterEntry)

ADAPTERS.register(
    "lora",
    target="acestep.adapters.lora:LoRAAdapter",
    label="LoRA",
    help="Low-rank matrices beside each weight. The file works in the ACE-Step app, ComfyUI and diffusers.",
    config=LoRAConfig,
    files=("adapter_model.safetensors",),
    memory_cost=memory.lora_cost,
)
ADAPTERS.register(
    "dora",
    target="acestep.adapters.dora:DoRAAdapter",
    label="DoRA",
    help="LoRA that learns the magnitude of each weight row separately: a little better at low ranks, slower to train. "
    "The file works in the ACE-Step app and diffusers; ComfyUI does not apply the magnitudes and sounds different.",
    config=DoRAConfig,
    files=("adapter_model.safetensors",),
    memory_cost=memory.dora_cost,
    parent="lora",
)
ADAPTERS.register(
    "lokr",
    target="acestep.adapters.lokr:LoKRAdapter",
    label="LoKr",
    help="A Kronecker product beside each weight. The file works in the ACE-Step app and ComfyUI, not in diffusers.",
    config=LoKRConfig,
    files=("lokr_weights.safetensors",),
    memory_cost=memory.lokr_cost,
)
ADAPTERS.register(
    "loha",
    target="acestep.adapters.loha:LoHaAdapter",
    label="LoHa",
    help="The elementwise product of two low-rank products: a high-rank update from few parameters. The file works in "
    "the ACE-Step app and ComfyUI, not in diffusers.",
    config=LoHaConfig,
    files=("adapter_model.safetensors", "loha_weights.safetensors"),
    memory_cost=memory.loha_cost,
)
