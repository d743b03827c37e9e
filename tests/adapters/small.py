"""A small decoder, a copy of it with original module names, and helpers to train and save adapters."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from acestep.adapters.base import Adapter
from acestep.adapters.configs import AdapterConfig, DoRAConfig, LoHaConfig, LoKRConfig, LoRAConfig
from acestep.adapters.files import inject
from acestep.adapters.metadata import AdapterMetadata
from acestep.models.attention import Attention
from acestep.models.dit import AceStepDiT
from acestep.models.quantize import QUANTIZED, quantize

LORA = LoRAConfig(r=4, alpha=8, dropout=0.0)
LOKR = LoKRConfig(linear_dim=2, linear_alpha=4.0, factor=4)  # both halves of the larger factor, scale 2
LOKR_WHOLE = LoKRConfig()
KINDS: list[tuple[str, AdapterConfig]] = [("lora", LORA), ("lokr", LOKR), ("lokr", LOKR_WHOLE)]
RSLORA = LoRAConfig(r=4, alpha=4, dropout=0.0, use_rslora=True, ranks={"q_proj": 2, "layers.0.self_attn.v_proj": 6})
PISSA = LoRAConfig(r=4, alpha=8, dropout=0.0, init="pissa")
DORA = DoRAConfig(r=4, alpha=8, dropout=0.0)
DORA_PISSA = DoRAConfig(r=4, alpha=4, dropout=0.0, init="pissa", ranks={"v_proj": 2})
LOHA = LoHaConfig(r=4, alpha=8)
LOKR_DECOMPOSED = LoKRConfig(linear_dim=2, linear_alpha=4.0, factor=4, weight_decompose=True)
VARIANTS: list[tuple[str, AdapterConfig]] = [
    ("lora", RSLORA),
    ("lora", PISSA),
    ("dora", DORA),
    ("dora", DORA_PISSA),
    ("loha", LOHA),
    ("lokr", LOKR_DECOMPOSED),
]
EVERY = KINDS + VARIANTS
BASES = ("fp32", "bf16", *QUANTIZED)
CARD = AdapterMetadata(
    base_model="acestep-v15-tiny", family="2b", variant="turbo", trigger_word="zyx", tag_position="append"
)


def make_decoder(family: str = "2b", *, num_layers: int = 2, dtype: torch.dtype = torch.float32) -> AceStepDiT:
    """A seeded decoder. As in the real XL family, queries are wider and conditions narrower than the decoder."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    if family == "xl":
        sizes |= {"hidden_size": 80, "num_attention_heads": 8, "encoder_hidden_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(5)
        decoder = AceStepDiT(**sizes, num_hidden_layers=num_layers, head_dim=16)
    return decoder.to(dtype=dtype).eval()


def make_base(precision: str) -> AceStepDiT:
    """The same decoder, one layer deep, its base in one of ``BASES``."""
    decoder = make_decoder(num_layers=1, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    if precision in QUANTIZED:
        quantize(decoder, precision)
    return decoder


def run(network: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """The decoder's output [2, 21, 64] for fixed inputs."""
    generator = torch.Generator().manual_seed(6)
    points, context, condition = (
        torch.randn(2, *shape, generator=generator).to(dtype) for shape in ((21, 64), (21, 128), (9, 64))
    )
    time = torch.tensor([0.3, 0.8], dtype=dtype)
    answer: Tensor = network(
        hidden_states=points,
        timestep=time,
        timestep_r=time,
        encoder_hidden_states=condition,
        context_latents=context,
        return_dict=False,
    )[0]
    return answer


def trained(decoder: nn.Module, kind: str, config: AdapterConfig, *, train_mlp: bool = True) -> Adapter:
    """An adapter whose parameters are all far from their initial values."""
    adapter = inject(decoder, kind, config, "both", train_mlp)
    generator = torch.Generator().manual_seed(7)
    size = 0.3 if kind in ("lokr", "loha") else 0.1  # a good part of the answer is then the adapter's
    state = adapter.state()
    for key, value in state.items():
        noise = size * torch.randn(value.shape, generator=generator)
        if key.endswith(("lora_magnitude_vector", "dora_scale")):
            state[key] = value * (1 + noise)
        elif not key.endswith(".start"):
            state[key] = value * (f"{key.removesuffix('.weight')}.start" in state) + noise
    adapter.load_state(state)
    return adapter


def train_steps(adapter: Adapter, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    for _ in range(steps):
        run(adapter.network).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def answer(network: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    return run(network, dtype)


def relative(found: Tensor, wanted: Tensor, base: Tensor) -> float:
    """The error relative to the adapter's effect on the output."""
    return float((found - wanted).norm() / (wanted - base).norm())


def save(adapter: Adapter, folder: Path, metadata: AdapterMetadata = CARD, dtype: torch.dtype = torch.float32) -> Path:
    folder.mkdir(parents=True)
    adapter.save(folder, metadata, dtype=dtype)
    return folder


class _OriginalAttention(Attention):
    """The attention with the module names of the original checkpoint."""

    to_q = property(lambda self: self.q_proj)
    to_k = property(lambda self: self.k_proj)
    to_v = property(lambda self: self.v_proj)
    to_out = property(lambda self: [self.o_proj, nn.Identity()])


class _OriginalDiT(AceStepDiT):
    proj_in_conv = property(lambda self: self.proj_in[1])


def with_original_names(decoder: AceStepDiT) -> Any:
    """An equivalent copy with the module tree that the ACE-Step app passes to PEFT and LyCORIS."""
    twin = copy.deepcopy(decoder)
    for module in list(twin.modules()):
        if isinstance(module, Attention):
            parts = module._modules
            for new, old in (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v")):
                parts[new] = parts.pop(old)
            parts["o_proj"] = parts.pop("to_out")[0]
            module.__class__ = _OriginalAttention
    twin._modules["proj_in"] = nn.Sequential(nn.Identity(), twin._modules.pop("proj_in_conv"))
    twin.__class__ = _OriginalDiT
    return twin
