"""Every adapter kind, with every scaling, gives the same output in every program as in training."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from acestep.adapters.configs import ADAPTERS
from acestep.exporting.package import export_adapter
from acestep.exporting.targets import TARGETS
from tests.exporting.models import EVERY, SETTINGS, error, load_base, make_run, probe_output
from tests.exporting.readers import READERS

LIMITS = {torch.float32: 1e-4, torch.bfloat16: 5e-3}
EXACT = {
    "acestep": {"lora", "dora", "lokr", "loha"},
    "comfyui": {"lora", "dora", "lokr", "loha"},
    "diffusers": {"lora", "dora"},
}
every_kind = pytest.mark.parametrize(("kind", "setting"), EVERY)
precisions = pytest.mark.parametrize("dtype", LIMITS, ids=["fp32", "bf16"])


@pytest.fixture(scope="module")
def exported(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(kind, setting, dtype) -> the exports for all programs, and the output of the trained decoder. Cached."""

    @cache
    def export(kind: str, setting: str, dtype: torch.dtype) -> tuple[dict[str, Any], Tensor]:
        root = tmp_path_factory.mktemp(kind)
        expected = make_run(small_checkpoint, root / "my run", kind, setting, dtype)
        result = export_adapter(root / "my run", "all", out=root / "out", checkpoint=small_checkpoint)
        assert result["refused"] == {}
        return result["targets"], expected

    return export


@precisions
@pytest.mark.parametrize("target", TARGETS.names)
@every_kind
def test_other_programs_reproduce_the_trained_output(
    exported: Any, small_checkpoint: Path, kind: str, setting: str, target: str, dtype: torch.dtype
) -> None:
    written, expected = exported(kind, setting, dtype)
    result, decoder = written[target], load_base(small_checkpoint)
    base = probe_output(decoder)
    found_error = error(READERS[target](decoder, Path(result["adapter"])), expected, base)
    assert abs(found_error - result["output_error"]) < LIMITS[dtype]
    if kind in EXACT[target]:
        assert found_error < LIMITS[dtype]
        assert result["residual"] < LIMITS[dtype]


@pytest.mark.parametrize("target", TARGETS.names)
@pytest.mark.parametrize("kind", ADAPTERS.names)
def test_the_export_reports_the_error_of_a_small_rank(
    small_checkpoint: Path, tmp_path: Path, kind: str, target: str
) -> None:
    expected = make_run(small_checkpoint, tmp_path / "run", kind, next(iter(SETTINGS[kind])))
    result = export_adapter(tmp_path / "run", target, out=tmp_path / "out", checkpoint=small_checkpoint, rank=2)
    decoder = load_base(small_checkpoint)
    base = probe_output(decoder)
    found_error = error(READERS[target](decoder, Path(result["adapter"])), expected, base)
    assert result["form"] == "lora"
    assert 0.05 < result["residual"] < 1.0
    assert found_error > 0.01
    assert found_error == pytest.approx(result["output_error"], rel=1e-3)


def test_every_kind_and_every_target_is_in_the_matrix() -> None:
    assert set(SETTINGS) == set(ADAPTERS.names)
    assert set(READERS) == set(TARGETS.names) == set(EXACT)
