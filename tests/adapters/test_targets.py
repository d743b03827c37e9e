"""Exactly the requested modules are adapted, for each adapter kind, target and family."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from acestep.adapters.configs import AdapterConfig, LoRAConfig
from acestep.adapters.files import inject
from acestep.adapters.targets import module_from_underscores, shortest_names, target_modules, unknown_modules
from acestep.core.errors import AdapterError
from acestep.models.dit import AceStepDiT
from acestep.models.key_mapping import diffusers_to_original
from acestep.models.load import load_dit
from tests.adapters.small import DORA, LOHA, LOKR, LORA, make_decoder

ATTENTION = {"self": ["self_attn"], "cross": ["cross_attn"], "both": ["self_attn", "cross_attn"]}
CHECKPOINTS = ["acestep-v15-tiny", "acestep-v15-tiny-base", "acestep-v15-tiny-xl-base"]
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]
MLP = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def asked_for(attention_type: str, train_mlp: bool, num_layers: int) -> list[str]:
    endings = [f"{branch}.{name}" for branch in ATTENTION[attention_type] for name in PROJECTIONS]
    return [f"layers.{n}.{ending}" for n in range(num_layers) for ending in endings + (MLP if train_mlp else [])]


def adapted(decoder: nn.Module) -> list[str]:
    """Names of the layers with trainable parameters."""
    names = [name for name, parameter in decoder.named_parameters() if parameter.requires_grad]
    return list(dict.fromkeys(re.split(r"\.lora_|\.lokr\.|\.loha\.", name)[0] for name in names))


@pytest.fixture(scope="module")
def decoders(tiny_root: Path) -> dict[str, nn.Module]:
    return {name: load_dit(tiny_root / name) for name in CHECKPOINTS}


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
@pytest.mark.parametrize("train_mlp", [False, True])
@pytest.mark.parametrize("attention_type", ["both", "self", "cross"])
@pytest.mark.parametrize(("kind", "config"), [("lora", LORA), ("dora", DORA), ("lokr", LOKR), ("loha", LOHA)])
def test_only_the_requested_modules_are_adapted(
    decoders: dict[str, nn.Module],
    kind: str,
    config: AdapterConfig,
    attention_type: str,
    train_mlp: bool,
    checkpoint: str,
) -> None:
    decoder = decoders[checkpoint]
    wanted = asked_for(attention_type, train_mlp, 4)
    adapter = inject(decoder, kind, config, attention_type, train_mlp)
    assert sorted(adapted(decoder)) == sorted(wanted)
    assert {re.split(r"\.lora_|\.lokr_|\.hada_", key)[0] for key in adapter.state()} == {
        diffusers_to_original(name) for name in wanted
    }
    adapter.remove()
    assert adapted(decoder) == []


def test_layer_names_are_matched_exactly_with_more_than_ten_layers() -> None:
    decoder = make_decoder(num_layers=11)
    inject(decoder, "lora", LORA, "self", False)
    assert sorted(adapted(decoder)) == sorted(asked_for("self", False, 11))


def test_the_parameter_count_on_the_2b_model_matches_the_published_one() -> None:
    with torch.device("meta"):
        decoder = AceStepDiT()
    adapter = inject(decoder, "lora", LoRAConfig(r=4, alpha=4), "both", False)
    assert 16 * sum(parameter.numel() for parameter in adapter.parameters()) == 44_040_192  # rank 64


def test_targets_are_in_the_order_of_the_decoder() -> None:
    decoder = make_decoder()
    order = [name for name, _ in decoder.named_modules()]
    assert target_modules(decoder, "both", True) == sorted(asked_for("both", True, 2), key=order.index)


def test_a_missing_target_is_an_error() -> None:
    decoder = make_decoder()
    for layer in decoder.layers:
        del layer.cross_attn
    with pytest.raises(AdapterError, match="cross_attn"):
        target_modules(decoder, "both", False)
    assert target_modules(decoder, "self", False) == asked_for("self", False, 2)


def test_an_unknown_attention_target_lists_the_valid_ones() -> None:
    with pytest.raises(AdapterError, match="'all'") as caught:
        target_modules(make_decoder(), "all", False)
    assert "both, self, cross" in caught.value.hint


def test_lycoris_names_with_underscores_map_back_to_module_names() -> None:
    linear = [name for name, module in make_decoder().named_modules() if isinstance(module, nn.Linear | nn.Conv1d)]
    names = [diffusers_to_original(name) for name in linear]
    assert [module_from_underscores(name.replace(".", "_")) for name in names] == names
    assert unknown_modules(names) == []
    assert unknown_modules(["layers.0.attn1.to_q", "text_model.q_proj"]) == ["layers.0.attn1.to_q", "text_model.q_proj"]


def test_suffixes_are_used_only_if_all_layers_have_them() -> None:
    names = ["layers.0.mlp.up_proj", "layers.1.mlp.up_proj"]
    assert shortest_names(names) == ["mlp.up_proj"]
    assert shortest_names([*names, "layers.0.mlp.down_proj"]) == [*names, "layers.0.mlp.down_proj"]
    assert shortest_names([*names, "condition_embedder"]) == [*names, "condition_embedder"]
