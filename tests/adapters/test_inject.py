"""Injecting and removing an adapter has no side effects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lycoris import LycorisNetwork
from torch import nn

from acestep.adapters.configs import AdapterConfig, DoRAConfig, LoHaConfig, LoKRConfig, LoRAConfig
from acestep.adapters.files import inject
from acestep.core.errors import AdapterError, UnknownName
from tests.adapters.small import DORA, EVERY, LOHA, LOKR, LORA, PISSA, answer, make_decoder, train_steps, trained

every_kind = pytest.mark.parametrize(("kind", "config"), EVERY)


def attributes(decoder: nn.Module) -> dict[str, set[str]]:
    return {name: set(vars(module)) | set(module._modules) for name, module in decoder.named_modules()}


def lycoris_classes() -> dict[str, Any]:
    return {name: value for name, value in vars(LycorisNetwork).items() if name.isupper()}


@every_kind
def test_adapter_weights_are_fp32_on_a_bf16_base_and_the_base_is_frozen(kind: str, config: AdapterConfig) -> None:
    decoder = make_decoder(dtype=torch.bfloat16)
    base = {id(parameter) for parameter in decoder.parameters()}
    assert all(parameter.requires_grad for parameter in decoder.parameters())
    adapter = inject(decoder, kind, config, "both", False)
    assert all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in adapter.parameters())
    trainable = {id(parameter) for parameter in decoder.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in adapter.parameters()}
    assert not trainable & base
    assert {p.dtype for p in decoder.parameters() if id(p) in base} == {torch.bfloat16}


@every_kind
def test_initial_weights_depend_only_on_the_seed(kind: str, config: AdapterConfig) -> None:
    torch.manual_seed(1)
    first = inject(make_decoder(), kind, config, "both", False, seed=3).state()
    torch.manual_seed(2)
    again = inject(make_decoder(), kind, config, "both", False, seed=3).state()
    other = inject(make_decoder(), kind, config, "both", False, seed=4).state()
    assert list(first) == list(again)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_kind
def test_the_global_random_state_is_unchanged(kind: str, config: AdapterConfig) -> None:
    before = torch.get_rng_state()
    inject(make_decoder(), kind, config, "both", True)
    assert torch.equal(torch.get_rng_state(), before)


@every_kind
def test_a_second_run_in_the_same_process_is_independent(kind: str, config: AdapterConfig) -> None:
    decoder = make_decoder()
    weights, names = {key: value.clone() for key, value in decoder.state_dict().items()}, attributes(decoder)
    before = answer(decoder)
    runs = []
    for _ in range(2):
        adapter = inject(decoder, kind, config, "both", True)
        runs.append((list(adapter.state()), list(decoder.state_dict())))
        train_steps(adapter)
        assert not torch.equal(answer(decoder), before)
        assert adapter.remove() is decoder
        assert list(decoder.state_dict()) == list(weights)
        assert all(torch.equal(value, weights[key]) for key, value in decoder.state_dict().items())
        assert attributes(decoder) == names
        assert torch.equal(answer(decoder), before)
    assert runs[0] == runs[1]


@every_kind
def test_training_updates_every_parameter(kind: str, config: AdapterConfig) -> None:
    adapter = inject(make_decoder(), kind, config, "both", True)
    before = adapter.state()
    train_steps(adapter)
    moved = {key for key, value in adapter.state().items() if not torch.equal(value, before[key])}
    assert moved == {key for key in before if not key.endswith(".start")}  # what PiSSA began with is no parameter
    assert len(moved) == len(adapter.parameters())


@every_kind
def test_gradient_checkpointing_gives_the_same_gradients(kind: str, config: AdapterConfig) -> None:
    gradients = []
    for checkpointing in (False, True):
        decoder = make_decoder()
        if checkpointing:
            decoder.enable_gradient_checkpointing()
        adapter = trained(decoder, kind, config)
        decoder.train()
        train_steps(adapter, 1)
        gradients.append(adapter.state())
    assert all(torch.equal(value, gradients[1][key]) for key, value in gradients[0].items())


@pytest.mark.parametrize("first", ["lora", "dora", "lokr", "loha"])
@pytest.mark.parametrize("second", ["lora", "lokr", "loha"])
def test_injecting_a_second_adapter_is_rejected(first: str, second: str) -> None:
    configs: dict[str, AdapterConfig] = {"lora": LORA, "dora": DORA, "lokr": LOKR, "loha": LOHA}
    decoder = make_decoder()
    inject(decoder, first, configs[first], "self", False)
    names = list(decoder.state_dict())
    with pytest.raises(AdapterError, match="already has an adapter"):
        inject(decoder, second, configs[second], "cross", False)
    assert list(decoder.state_dict()) == names


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("lora", LoRAConfig(r=4, alpha=4, dropout=0.5)),
        ("lora", LoRAConfig(r=4, alpha=4, dropout=0.5, init="pissa")),
        ("dora", DoRAConfig(r=4, alpha=4, dropout=0.5)),
        ("lokr", LoKRConfig(dropout=0.5)),
        ("loha", LoHaConfig(r=4, dropout=0.5)),
    ],
)
def test_dropout_is_active_only_in_training_mode(kind: str, config: AdapterConfig) -> None:
    decoder = make_decoder()
    trained(decoder, kind, config)
    assert torch.equal(answer(decoder), answer(decoder))
    decoder.train()
    assert not torch.equal(answer(decoder), answer(decoder))


def test_lycoris_class_attributes_are_unchanged_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    before = lycoris_classes()
    inject(make_decoder(), "lokr", LoKRConfig(dropout=0.1), "self", False)
    assert lycoris_classes() == before
    assert capfd.readouterr().out == ""


def test_settings_without_effect_are_reported() -> None:
    config = LoKRConfig(linear_alpha=3.0, use_tucker=True)
    notes = inject(make_decoder(), "lokr", config, "self", False).notes
    assert [note.split()[0] for note in notes] == ["use_tucker", "linear_alpha"]
    assert inject(make_decoder(), "lokr", LOKR, "self", False).notes == []
    assert inject(make_decoder(), "lora", LORA, "self", False).notes == []


def test_an_unknown_kind_suggests_the_closest_match() -> None:
    with pytest.raises(UnknownName) as caught:
        inject(make_decoder(), "lorra", LORA, "both", False)
    assert "lora" in caught.value.hint


@pytest.mark.parametrize("config", [PISSA, PISSA.model_copy(update={"use_rslora": True, "alpha": 3})])
def test_pissa_initializes_with_the_principal_components(config: LoRAConfig) -> None:
    decoder = make_decoder()
    adapter = inject(decoder, "lora", config, "both", True)
    state, scale = adapter.state(), config.alpha / (2 if config.use_rslora else 4)
    for name, module in (("layers.0.mlp.up_proj", "mlp.up_proj"), ("layers.0.self_attn.k_proj", "self_attn.to_k")):
        weight = decoder.layers[0].get_submodule(module).weight.detach()
        least = torch.linalg.svdvals(weight)[4:].norm()  # no matrix of rank 4 comes nearer
        a, b = state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
        assert least * 0.999 < (weight - scale * b @ a).norm() < least * 1.001
        torch.testing.assert_close(a.norm(), b.norm())


def test_pissa_rejects_ranks_larger_than_the_weight() -> None:
    decoder = make_decoder()
    names = list(decoder.state_dict())
    with pytest.raises(AdapterError, match=r"to_k with rank 33: its weight is \[32, 64\]"):
        inject(decoder, "lora", LoRAConfig(r=33, init="pissa"), "both", False)
    assert list(decoder.state_dict()) == names


def test_the_longest_matching_key_sets_the_rank_of_a_module() -> None:
    ranks = {"up_proj": 2, "layers.1.mlp.up_proj": 7, "self_attn.q_proj": 3}
    state = inject(make_decoder(), "lora", LoRAConfig(r=4, ranks=ranks), "both", True).state()
    found = {name: len(state[f"layers.{name}.lora_A.weight"]) for name in ("0.mlp.up_proj", "1.mlp.up_proj")}
    assert found == {"0.mlp.up_proj": 2, "1.mlp.up_proj": 7}
    assert [len(state[f"layers.1.{name}.lora_A.weight"]) for name in ("self_attn.q_proj", "cross_attn.q_proj")] == [
        3,
        4,
    ]


def test_ranks_for_untrained_modules_are_rejected() -> None:
    decoder = make_decoder()
    names = list(decoder.state_dict())
    with pytest.raises(AdapterError, match="down_proj, which is not trained") as caught:
        inject(decoder, "lora", LoRAConfig(r=4, ranks={"down_proj": 2}), "self", False)
    assert "layers.0.self_attn.q_proj" in caught.value.hint
    assert list(decoder.state_dict()) == names
