"""Adapters are resized to another rank, and blended into one LoRA."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from acestep.adapters.base import fork_cpu_rng
from acestep.adapters.configs import LoRAConfig
from acestep.adapters.files import load_adapter, read_adapter, read_metadata
from acestep.adapters.metadata import AdapterMetadata
from acestep.core.errors import AdapterError
from acestep.exporting.delta import delta
from acestep.exporting.low_rank import low_rank_factors
from acestep.exporting.resize_blend import blend_adapters, resize_adapter
from tests.adapters.small import DORA, LOHA, LOKR, LORA, make_decoder, save, trained
from tests.exporting.models import error, make_run, probe_output


def weight_deltas(path: Path) -> dict[str, Tensor]:
    return {name: delta(parts) for name, parts in read_adapter(path).modules.items()}


@pytest.mark.parametrize("size", [(60, 40), (700, 600)])
def test_low_rank_factors_have_the_error_of_the_best_approximation(size: tuple[int, int]) -> None:
    with fork_cpu_rng(1):
        left, values = torch.linalg.qr(torch.randn(size))[0], 0.8 ** torch.arange(size[1])
        right = torch.linalg.qr(torch.randn(size[1], size[1]))[0]
    delta = left * values @ right.T
    b, a = low_rank_factors(delta, 5)
    assert (b.shape, a.shape) == ((size[0], 5), (5, size[1]))
    assert float((delta - b @ a).norm()) == pytest.approx(float(values[5:].norm()), rel=1e-3)


@pytest.mark.parametrize(("size", "rank"), [((90, 70), 6), ((700, 600), 6), ((90, 160), 90)])
def test_the_smallest_sufficient_rank_is_chosen(size: tuple[int, int], rank: int) -> None:
    with fork_cpu_rng(2):
        delta = torch.randn(size[0], rank) @ torch.randn(rank, size[1])
    b, a = low_rank_factors(delta)
    assert b.shape == (size[0], rank)
    assert float((b @ a - delta).norm() / delta.norm()) < 1e-5


def test_a_lora_is_resized_and_its_residual_is_reported(tmp_path: Path) -> None:
    config = LoRAConfig(r=6, alpha=6, dropout=0.0)
    folder = save(trained(make_decoder(), "lora", config), tmp_path / "a")
    result = resize_adapter(folder, 3, out=tmp_path / "small")
    before, after = weight_deltas(folder), weight_deltas(tmp_path / "small")
    squared_error = sum(float((before[name] - after[name]).norm()) ** 2 for name in before)
    squared_norm = sum(float(value.norm()) ** 2 for value in before.values())
    assert result["residual"] == pytest.approx((squared_error / squared_norm) ** 0.5, rel=1e-4)
    assert all(parts["lora_A"].shape[0] == 3 for parts in read_adapter(tmp_path / "small").modules.values())
    wide = resize_adapter(folder, 9, out=tmp_path / "wide")
    assert wide["residual"] < 1e-5
    assert read_metadata(tmp_path / "wide").trigger_word == "zyx"


@pytest.mark.parametrize(("kind", "config"), [("lokr", LOKR), ("loha", LOHA)])
def test_other_kinds_are_converted_to_a_lora(tmp_path: Path, kind: str, config: LoRAConfig) -> None:
    folder = save(trained(make_decoder(), kind, config), tmp_path / "a")
    result = resize_adapter(folder, 64, out=tmp_path / "out")
    before, after = weight_deltas(folder), weight_deltas(tmp_path / "out")
    assert result["residual"] < 1e-4
    assert all(torch.allclose(after[name], before[name], atol=1e-4, rtol=1e-3) for name in before)
    assert read_metadata(tmp_path / "out").facts["converted_from"] == kind


def test_blending_loras_is_exact(tmp_path: Path) -> None:
    metadata = AdapterMetadata(trigger_word="one", family="2b")
    first = save(trained(make_decoder(), "lora", LORA), tmp_path / "a", metadata)
    adapter = trained(make_decoder(), "lora", LoRAConfig(r=3, alpha=3, dropout=0.0), train_mlp=False)
    second = save(adapter, tmp_path / "b", AdapterMetadata(trigger_word="two"))
    result = blend_adapters([(first, 0.75), (second, -0.5)], out=tmp_path / "out")
    one, two, found = weight_deltas(first), weight_deltas(second), weight_deltas(tmp_path / "out")
    assert found.keys() == one.keys()
    for name, value in found.items():
        expected = 0.75 * one[name] - (0.5 * two[name] if name in two else 0)
        torch.testing.assert_close(value, expected)
    assert result["residual"] < 1e-6
    assert read_metadata(tmp_path / "out").trigger_word == "one, two"
    assert [part["weight"] for part in read_metadata(tmp_path / "out").facts["blended"]] == [0.75, -0.5]


def test_adapters_of_different_kinds_are_blended_into_a_lora_of_the_requested_rank(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    folders = [tmp_path / kind for kind in ("lora", "lokr", "dora")]
    for folder in folders:
        setting = "alpha = dim" if folder.name == "lokr" else "alpha = r"
        make_run(small_checkpoint, folder, folder.name, setting)
    pairs = [(folder, 0.5) for folder in folders]
    exact = blend_adapters(pairs, out=tmp_path / "out", checkpoint=small_checkpoint)
    assert exact["residual"] < 1e-3
    small = blend_adapters(pairs, out=tmp_path / "small", checkpoint=small_checkpoint, rank=4)
    assert small["residual"] > 0.05
    assert all(parts["lora_A"].shape[0] == 4 for parts in read_adapter(tmp_path / "small").modules.values())


def test_the_output_of_a_blend_is_that_of_the_weighted_sum(tmp_path: Path) -> None:
    config = LoRAConfig(r=4, alpha=1, dropout=0.0)
    adapter = trained(make_decoder(), "lora", config)
    folder = save(adapter, tmp_path / "a")
    adapter.set_strength(1.5)
    blend_adapters([(folder, 1.0), (folder, 0.5)], out=tmp_path / "out")
    decoder = make_decoder()
    base = probe_output(decoder)
    load_adapter(decoder, tmp_path / "out")
    assert error(probe_output(decoder), probe_output(adapter.network), base) < 1e-4  # type: ignore[arg-type]


def test_invalid_blends_are_rejected_with_a_clear_error(tmp_path: Path) -> None:
    first = save(trained(make_decoder(), "lora", LORA), tmp_path / "a")
    other = save(trained(make_decoder("xl"), "lora", LORA), tmp_path / "b", AdapterMetadata(family="xl"))
    with pytest.raises(AdapterError, match="at least two adapters"):
        blend_adapters([(first, 1.0)], out=tmp_path / "out")
    with pytest.raises(AdapterError, match="families 2b and xl cannot be blended"):
        blend_adapters([(first, 1.0), (other, 1.0)], out=tmp_path / "out")
    dora = save(trained(make_decoder(), "dora", DORA), tmp_path / "c", AdapterMetadata())
    with pytest.raises(AdapterError, match="depends on the base model"):
        blend_adapters([(first, 1.0), (dora, 1.0)], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
