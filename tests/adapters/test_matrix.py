"""Each adapter kind on base models of each precision: inject, train, save, load, remove."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from acestep.adapters.base import Adapter
from acestep.adapters.configs import ADAPTERS, AdapterConfig, LoRAConfig
from acestep.adapters.files import inject, load_adapter
from acestep.core.errors import AdapterError
from acestep.models.quantize import QUANTIZED
from tests.adapters.small import (
    BASES,
    DORA,
    DORA_PISSA,
    EVERY,
    LOKR_DECOMPOSED,
    PISSA,
    answer,
    make_base,
    relative,
    run,
    save,
    trained,
)

FILES = {torch.float32: 1e-5, torch.bfloat16: 1e-2}  # type in the file -> how far the answer may then be off
Case = tuple[str, AdapterConfig, str]


def possible(config: AdapterConfig, base: str) -> bool:
    return not (isinstance(config, LoRAConfig) and config.init == "pissa" and base in QUANTIZED)


def label(case: Case) -> str:
    kind, config, base = case
    chosen = config.model_dump(exclude_defaults=True)
    return "-".join(
        [
            kind,
            *(f"{name}" for name in ("use_rslora", "init", "linear_dim", "weight_decompose") if name in chosen),
            base,
        ]
    )


CASES: list[Case] = [(kind, config, base) for kind, config in EVERY for base in BASES if possible(config, base)]
every_case = pytest.mark.parametrize("case", CASES, ids=label)
LINEAR = [case for case in CASES if case[0] != "dora" and case[1] != LOKR_DECOMPOSED]
every_linear_case = pytest.mark.parametrize("case", LINEAR, ids=label)


@dataclass
class Life:
    """The life cycle of one adapter: outputs of the decoder and copies of weights at each stage."""

    base: Tensor
    fresh: Tensor
    fresh_in_training: Tensor
    base_in_training: Tensor
    gradients: dict[str, Tensor | None]
    before: dict[str, Tensor]
    after: dict[str, Tensor]
    one_step: Tensor
    second_state: dict[str, Tensor]
    second: Tensor
    frozen: dict[str, tuple[Tensor, Tensor]]
    removed: Tensor


def dtype_of(base: str) -> torch.dtype:
    return torch.bfloat16 if base == "bf16" else torch.float32


def take_step(adapter: Adapter, dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Take one AdamW step and return the gradients."""
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2)
    run(adapter.network, dtype).float().square().mean().backward()
    gradients = {name: p.grad for name, p in adapter.network.named_parameters() if p.requires_grad}
    optimizer.step()
    return gradients


@pytest.fixture(scope="module", params=CASES, ids=label)
def life(request: pytest.FixtureRequest) -> Life:
    kind, config, base = request.param
    dtype, decoder = dtype_of(base), make_base(base)
    weights = {name: value.clone() for name, value in decoder.state_dict().items()}
    found: dict[str, Any] = {"base": answer(decoder, dtype)}
    found["base_in_training"] = answer(decoder.train(), dtype)
    adapter = inject(decoder, kind, config, "both", True)
    found["fresh_in_training"] = answer(decoder, dtype)
    found["fresh"] = answer(decoder.eval(), dtype)
    found["before"] = adapter.state()
    found["gradients"] = take_step(adapter, dtype)
    found["after"], found["one_step"] = adapter.state(), answer(decoder, dtype)
    adapter.remove()
    found["removed"] = answer(decoder, dtype)
    found["frozen"] = {name: (value, weights[name]) for name, value in decoder.state_dict().items()}
    assert found["frozen"].keys() == weights.keys()
    second = inject(decoder, kind, config, "both", True, seed=9)
    second.load_state(found["after"])
    found["second_state"], found["second"] = second.state(), answer(decoder, dtype)
    return Life(**found)


def test_a_new_adapter_does_not_change_the_output(life: Life) -> None:
    assert torch.equal(life.fresh, life.base)
    assert torch.equal(life.fresh_in_training, life.base_in_training)


def test_training_and_evaluation_mode_use_the_same_base_weights(life: Life) -> None:
    assert torch.equal(life.base_in_training, life.base)


def test_one_step_changes_the_output(life: Life) -> None:
    assert life.one_step.isfinite().all()
    assert not torch.equal(life.one_step, life.base)


def test_the_first_gradients_are_finite_fp32_and_reach_every_layer(life: Life) -> None:
    reached = set()
    for name, gradient in life.gradients.items():
        assert gradient is not None
        assert gradient.dtype == torch.float32
        assert gradient.isfinite().all()
        if gradient.any():
            reached.add(".".join(name.split(".")[:4]))
    assert len(reached) == 11


def test_state_round_trip_is_exact(life: Life) -> None:
    assert list(life.second_state) == list(life.after) == list(life.before)
    assert any(not torch.equal(life.after[name], value) for name, value in life.before.items())
    assert all(torch.equal(life.second_state[name], value) for name, value in life.after.items())
    assert torch.equal(life.second, life.one_step)


def test_removing_an_adapter_restores_the_base_model_bit_exactly(life: Life) -> None:
    assert all(torch.equal(now, before) for now, before in life.frozen.values())
    assert torch.equal(life.removed, life.base)


@every_case
def test_file_round_trip_preserves_the_output(tmp_path: Path, case: Case) -> None:
    kind, config, base = case
    dtype, decoder = dtype_of(base), make_base(base)
    plain = answer(decoder, dtype).float()
    adapter = trained(decoder, kind, config)
    full = answer(decoder, dtype).float()
    files = {error: save(adapter, tmp_path / str(of), dtype=of) for of, error in FILES.items()}
    adapter.remove()
    for error, folder in files.items():
        loaded = load_adapter(decoder, folder)
        assert relative(answer(decoder, dtype).float(), full, plain) < (5e-2 if base == "bf16" else error)
        loaded.remove()


@every_linear_case
@torch.no_grad()
def test_the_update_is_linear_in_the_strength(case: Case) -> None:
    kind, config, base = case
    decoder, dtype = make_base(base), dtype_of(base)
    x = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    plain = decoder.layers[0].mlp.up_proj(x).float()
    adapter = trained(decoder, kind, config)
    answers = {}
    for strength in (0.0, 0.3, 1.0, 2.0, -1.0):
        adapter.set_strength(strength)
        answers[strength] = decoder.layers[0].mlp.up_proj(x).float()
    assert torch.equal(answers[0.0], plain)
    added = answers[1.0] - plain
    assert added.norm() > 0.05 * plain.norm()
    for strength, found in answers.items():
        assert (found - plain - strength * added).norm() < (2e-2 if base == "bf16" else 1e-5) * added.norm()


@every_case
def test_autocast_gives_finite_outputs_and_fp32_gradients(case: Case) -> None:
    kind, config, base = case
    decoder, dtype = make_base(base), dtype_of(base)
    plain = answer(decoder, dtype).float()
    adapter = trained(decoder, kind, config)
    exact = answer(decoder, dtype).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = run(decoder)
        found.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 and p.grad.any() for p in adapter.parameters())
    assert relative(found.detach().float(), exact, plain) < 0.15


@pytest.mark.parametrize("base", QUANTIZED)
@pytest.mark.parametrize(("kind", "config"), [("lora", PISSA), ("dora", DORA_PISSA)])
def test_pissa_on_a_quantized_base_is_rejected_before_injection(kind: str, config: AdapterConfig, base: str) -> None:
    decoder = make_base(base)
    names, before = list(decoder.state_dict()), answer(decoder)
    with pytest.raises(AdapterError, match="PiSSA.*base model is quantized"):
        inject(decoder, kind, config, "both", True)
    assert list(decoder.state_dict()) == names
    assert torch.equal(answer(decoder), before)


@pytest.mark.parametrize("base", QUANTIZED)
@pytest.mark.parametrize(("kind", "config"), [("dora", DORA), ("lokr", LOKR_DECOMPOSED)])
def test_magnitudes_trained_on_a_quantized_base_are_the_row_norms_of_the_original(
    tmp_path: Path, kind: str, config: AdapterConfig, base: str
) -> None:
    folder = save(inject(make_base(base), kind, config, "both", True), tmp_path / "a", dtype=torch.float32)
    exact = make_base("fp32")
    before = answer(exact)
    load_adapter(exact, folder)
    torch.testing.assert_close(answer(exact), before)


def test_every_registered_kind_is_tested() -> None:
    assert {kind for kind, _ in EVERY} == set(ADAPTERS.names)
