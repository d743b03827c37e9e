"""Save and load the exact state; strength scales the weight update and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from acestep.adapters.base import Adapter, split_key
from acestep.adapters.configs import AdapterConfig, LoKRConfig
from acestep.adapters.lokr_file import factors
from acestep.core.errors import AdapterError
from acestep.models.key_mapping import original_to_diffusers
from tests.adapters.small import EVERY, KINDS, LOKR_DECOMPOSED, answer, make_decoder, relative, trained

every_kind = pytest.mark.parametrize(("kind", "config"), EVERY)
LINEAR = [(kind, config) for kind, config in EVERY if kind != "dora" and config != LOKR_DECOMPOSED]
every_linear_kind = pytest.mark.parametrize(("kind", "config"), LINEAR)


def deltas(adapter: Adapter) -> dict[str, Tensor]:
    """The update of each weight of ``make_decoder`` at strength 1, computed from the folded parts."""
    modules: dict[str, dict[str, Tensor]] = {}
    for key, value in adapter.folded().items():
        name, part = key.removesuffix(".weight").rsplit(".", 1)
        modules.setdefault(name, {})[part] = value
    weights = make_decoder()
    return {name: delta(adapter.kind, parts, weight_of(weights, name)) for name, parts in modules.items()}


def weight_of(decoder: nn.Module, name: str) -> Tensor:
    weight = decoder.get_submodule(original_to_diffusers(name)).weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def delta(kind: str, parts: dict[str, Tensor], weight: Tensor) -> Tensor:
    if kind == "lokr":
        added = torch.kron(*factors(parts))
        return decomposed(weight + added, parts["dora_scale"]) - weight if "dora_scale" in parts else added
    if kind == "loha":
        return (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    low_rank = parts["lora_B"] @ parts["lora_A"]
    if kind == "lora":
        return low_rank
    return decomposed(weight + low_rank, parts["lora_magnitude_vector"][:, None]) - weight


def decomposed(weight: Tensor, magnitudes: Tensor) -> Tensor:
    return magnitudes * weight / weight.norm(dim=1, keepdim=True)


def with_added(decoder: nn.Module, added: dict[str, Tensor], strength: float) -> Tensor:
    """The output of a decoder without an adapter whose weights are W + strength * delta."""
    with torch.no_grad():
        for name, delta in added.items():
            weight_of(decoder, name).add_(strength * delta)
    return answer(decoder)


@every_kind
def test_the_state_is_a_copy_in_fp32(kind: str, config: AdapterConfig) -> None:
    adapter = trained(make_decoder(), kind, config)
    state = adapter.state()
    for value in state.values():
        assert value.dtype == torch.float32
        value.zero_()
    assert all(value.any() for value in adapter.state().values())


@every_kind
@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "nan"])
def test_a_mismatched_state_is_rejected_and_changes_nothing(kind: str, config: AdapterConfig, damage: str) -> None:
    adapter = trained(make_decoder(), kind, config)
    state, before = adapter.state(), adapter.state()
    key = list(state)[-1]
    match damage:
        case "missing":
            del state[key]
        case "unexpected":
            key = "layers.7.mlp.up_proj.lora_A.weight"
            state[key] = torch.zeros(2)
        case "shape":
            state[key] = state[key].new_zeros(3, 5)
        case "nan":
            state[key][0] = torch.nan
    state[next(iter(state))].fill_(1.0)
    with pytest.raises(AdapterError, match=key.replace(".", r"\.")):
        adapter.load_state(state)
    assert all(torch.equal(value, before[name]) for name, value in adapter.state().items())


@every_linear_kind
@pytest.mark.parametrize("strength", [-0.5, 2.5])
def test_strength_scales_the_weight_update(kind: str, config: AdapterConfig, strength: float) -> None:
    base = answer(make_decoder())
    adapter = trained(make_decoder(), kind, config)
    adapter.set_strength(strength)
    wanted = with_added(make_decoder(), deltas(adapter), strength)
    assert relative(answer(adapter.network), wanted, base) < 1e-5


@every_kind
def test_strength_zero_is_the_base_and_one_restores_the_adapter(kind: str, config: AdapterConfig) -> None:
    decoder = make_decoder()
    base = answer(decoder)
    adapter = trained(decoder, kind, config)
    full, state = answer(decoder), adapter.state()
    adapter.set_strength(0)
    assert torch.equal(answer(decoder), base)
    assert all(torch.equal(value, state[key]) for key, value in adapter.state().items())
    adapter.set_strength(1)
    assert torch.equal(answer(decoder), full)


@every_kind
def test_folded_weights_do_not_depend_on_the_strength(kind: str, config: AdapterConfig) -> None:
    adapter = trained(make_decoder(), kind, config)
    before = adapter.folded()
    adapter.set_strength(3.0)
    assert all(torch.equal(value, before[key]) for key, value in adapter.folded().items())


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_non_finite_strength_is_rejected(strength: float) -> None:
    adapter = trained(make_decoder(), *KINDS[0])
    with pytest.raises(AdapterError, match="strength"):
        adapter.set_strength(strength)


def test_both_factors_of_a_lokr_can_be_decomposed() -> None:
    config = LoKRConfig(linear_dim=1, linear_alpha=3.0, factor=4, decompose_both=True)
    base = answer(make_decoder())
    adapter = trained(make_decoder(), "lokr", config)
    assert {key.rsplit(".", 1)[1] for key in adapter.state()} == {
        "lokr_w1_a",
        "lokr_w1_b",
        "lokr_w2_a",
        "lokr_w2_b",
    }
    wanted = with_added(make_decoder(), deltas(adapter), 1.0)
    assert relative(answer(adapter.network), wanted, base) < 1e-5


@every_kind
def test_delta_matches_the_weight_update_of_each_kind(kind: str, config: AdapterConfig) -> None:
    adapter = trained(make_decoder(), kind, config)
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in adapter.folded().items():
        parts.setdefault(split_key(key)[0], {})[split_key(key)[1]] = value
    for name, wanted in deltas(adapter).items():
        found = type(adapter).delta(parts[name], weight_of(make_decoder(), name))
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-4)
        assert type(adapter).delta_shape(parts[name]) == tuple(wanted.shape)
        if kind != "dora" and config != LOKR_DECOMPOSED:
            assert type(adapter).delta_norm(parts[name]) == pytest.approx(float(wanted.norm()), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "config"), [each for each in EVERY if each[0] != "dora" and each[1] != LOKR_DECOMPOSED]
)
@torch.no_grad()
def test_small_updates_are_not_rounded_to_a_bf16_base(kind: str, config: AdapterConfig) -> None:
    decoder = make_decoder(dtype=torch.bfloat16)
    decoder.layers[0].mlp.up_proj.weight.fill_(1.0)
    adapter = trained(decoder, kind, config)
    adapter.load_state({key: value * 0.05 for key, value in adapter.state().items()})  # deltas below 1e-3
    half = torch.randn(4, 32, generator=torch.Generator().manual_seed(1)).bfloat16()
    sample = torch.cat([half, -half], dim=1)  # the base answers zero to it
    wanted = sample.float() @ deltas(adapter)["layers.0.mlp.up_proj"].T
    found = decoder.layers[0].mlp.up_proj(sample).float()
    assert float((found - wanted).norm() / wanted.norm()) < 0.01
