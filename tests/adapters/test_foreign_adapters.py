"""Adapters written by other programs give the output of LyCORIS' own modules, or are rejected with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from acestep.adapters.files import load_adapter, read_adapter
from acestep.core.errors import AdapterError
from acestep.models.load import load_dit
from tests.adapters.lycoris_reference import apply_lokr
from tests.adapters.small import relative
from tests.adapters.test_tiny_models import answer

CASES = Path(__file__).parents[1] / "fixtures" / "foreign_adapters"
LOKRS = ("lokrwd", "lokrrs", "lokrunbal", "lokrdim4")
FILE = "lokr_weights.safetensors"


def outputs(tiny_checkpoint: Path, file: Path, strength: float) -> tuple[Tensor, Tensor, Tensor]:
    """The output of the base model, with LyCORIS' modules, and with the adapter loaded by this program."""
    base, theirs, ours = (load_dit(tiny_checkpoint) for _ in range(3))
    apply_lokr(theirs, file, strength)
    load_adapter(ours, file).set_strength(strength)
    return answer(base), answer(theirs), answer(ours)


def changed(case: str, target: Path, change: Callable[[str, Tensor], Tensor | None]) -> Path:
    """A copy of a file with changed tensors; None removes one."""
    with safe_open(CASES / case / FILE, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = {key: change(key, value) for key, value in load_file(CASES / case / FILE).items()}
    save_file({key: value for key, value in tensors.items() if value is not None}, target, metadata)
    return target


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("case", LOKRS)
def test_a_lokr_of_another_program_gives_the_output_of_lycoris(
    tiny_checkpoint: Path, case: str, strength: float
) -> None:
    base, theirs, ours = outputs(tiny_checkpoint, CASES / case / FILE, strength)
    assert float((theirs - base).norm() / base.norm()) > 0.1
    assert relative(ours, theirs, base) < 1e-5


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_magnitudes_per_input_as_in_lycoris_2_give_the_output_of_lycoris(
    tmp_path: Path, tiny_checkpoint: Path, strength: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    widths = {
        name.removesuffix(".dora_scale"): width for name, width in _inputs(load_file(CASES / "lokrwd" / FILE)).items()
    }

    def per_input(key: str, value: Tensor) -> Tensor:
        if not key.endswith(".dora_scale"):
            return value
        shape = (1, widths[key.removesuffix(".dora_scale")], *value.shape[2:])
        return value.mean() * (1 + 0.2 * torch.randn(shape, generator=generator))

    file = changed("lokrwd", tmp_path / "per_input.safetensors", per_input)
    base, theirs, ours = outputs(tiny_checkpoint, file, strength)
    assert relative(ours, theirs, base) < 1e-5


def _inputs(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Input channels of each module with magnitudes."""
    found = {}
    for key, value in tensors.items():
        if key.endswith(".dora_scale"):
            name = key.removesuffix(".dora_scale")
            kernel = 2 if value.dim() == 3 else 1
            found[key] = tensors[f"{name}.lokr_w1"].shape[1] * tensors[f"{name}.lokr_w2_b"].shape[1] // kernel
    return found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda key, value: None if "condition_embedder.dora_scale" in key else value, "has no dora_scale"),
        (lambda key, value: None if "dora_scale" in key else value, "has no dora_scale"),
        (lambda key, value: value[:7] if "condition_embedder.dora_scale" in key else value, r"of shape \[7, 1\]"),
        (lambda key, value: value.flatten() if "dora_scale" in key else value, r"dora_scale of shape \[160\]"),
    ],
)
def test_incomplete_magnitudes_are_rejected(
    tmp_path: Path, change: Callable[[str, Tensor], Tensor | None], words: str
) -> None:
    file = changed("lokrwd", tmp_path / FILE, change)
    with pytest.raises(AdapterError, match=f"weight decomposition, but condition_embedder has {words}|{words}"):
        read_adapter(file)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("biasall", r"bias 'all' and changes 7 biases, such as base_model\.model\.condition_embedder\.bias"),
        ("lohatucker", r"LoHa with Tucker decomposition: lycoris_proj_in_1\.hada_t1"),
    ],
)
def test_unsupported_variants_are_rejected_with_the_reason(case: str, words: str) -> None:
    with pytest.raises(AdapterError, match=words) as error:
        read_adapter(next((CASES / case).glob("*.safetensors")))
    assert "Train it again" in error.value.hint
