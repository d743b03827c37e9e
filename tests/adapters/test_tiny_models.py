"""Adapters on the tiny checkpoints: an adapter fits only models of its family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acestep.adapters.configs import AdapterConfig
from acestep.adapters.files import load_adapter
from acestep.adapters.metadata import AdapterMetadata
from acestep.adapters.targets import decoder_family
from acestep.core.errors import ModelMismatch
from acestep.models.checkpoint import find_checkpoint
from acestep.models.dit import AceStepDiT
from acestep.models.load import load_dit
from tests.adapters.small import DORA, LOHA, LOKR, LORA, relative, save, trained

KINDS: list[tuple[str, AdapterConfig]] = [("lora", LORA), ("dora", DORA), ("lokr", LOKR), ("loha", LOHA)]
TURBO, BASE, XL = "acestep-v15-tiny", "acestep-v15-tiny-base", "acestep-v15-tiny-xl-base"


@torch.no_grad()
def answer(decoder: AceStepDiT) -> torch.Tensor:
    generator = torch.Generator().manual_seed(6)
    points, context, condition = (
        torch.randn(1, *shape, generator=generator) for shape in ((20, 64), (20, 128), (9, 160))
    )
    time = torch.tensor([0.4])
    return decoder(points, time, time, condition, context, return_dict=False)[0]


@pytest.mark.parametrize("name", [TURBO, BASE, XL])
def test_decoder_family_matches_the_checkpoint(tiny_root: Path, name: str) -> None:
    assert decoder_family(load_dit(tiny_root / name)) == find_checkpoint(tiny_root / name).family


@pytest.mark.parametrize(("kind", "config"), KINDS)
@pytest.mark.parametrize("name", [TURBO, XL])
def test_an_adapter_gives_the_same_output_in_a_new_model(
    tiny_root: Path, tmp_path: Path, name: str, kind: str, config: AdapterConfig
) -> None:
    first, second, family = (
        load_dit(tiny_root / name),
        load_dit(tiny_root / name),
        decoder_family(load_dit(tiny_root / name)),
    )
    base = answer(first)
    folder = save(trained(first, kind, config), tmp_path / "a", AdapterMetadata(base_model=name, family=family))
    load_adapter(second, folder)
    assert relative(answer(second), answer(first), base) < 1e-5


@pytest.mark.parametrize(("kind", "config"), KINDS)
def test_an_adapter_loads_only_into_its_own_family(
    tiny_root: Path, tmp_path: Path, kind: str, config: AdapterConfig
) -> None:
    metadata = AdapterMetadata(base_model=XL, family="xl")
    folder = save(trained(load_dit(tiny_root / XL), kind, config), tmp_path / "xl", metadata)
    with pytest.raises(
        ModelMismatch, match=r"trained for acestep-v15-tiny-xl-base \(xl\), but this model is of the 2b family"
    ):
        load_adapter(load_dit(tiny_root / BASE), folder)
    metadata = AdapterMetadata(base_model=TURBO, family="2b")
    folder = save(trained(load_dit(tiny_root / TURBO), kind, config), tmp_path / "2b", metadata)
    load_adapter(load_dit(tiny_root / BASE), folder)
    with pytest.raises(ModelMismatch, match=r"trained for acestep-v15-tiny \(2b\), but this model is of the xl family"):
        load_adapter(load_dit(tiny_root / XL), folder)
