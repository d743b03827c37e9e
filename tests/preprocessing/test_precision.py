"""Dtypes of preprocessing: fp16 is never computed in, and values that are not finite are reported with their cause."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acestep.core.errors import DatasetError
from acestep.core.events import ItemFailed
from acestep.preprocessing import stages
from tests.operations import Operations
from tests.preprocessing.conftest import Listener, Preprocessor


def test_with_fp16_all_models_compute_in_fp32(encoded: Path, preprocessor: Preprocessor) -> None:
    listener = Listener()
    result = preprocessor.run(encoded, listener, dtype="fp16")
    assert (result["ready"], result["up_to_date"]) == (2, 2)  # as encoded in fp32, the dtype on a CPU
    assert any("float32: encoders and VAE overflow in fp16" in str(event) for event in listener.events)


@pytest.mark.parametrize("stage", ["encode_audio", "encode_condition"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_values_that_are_not_finite_are_reported_with_the_dtype_and_what_to_do(
    stage: str, dtype: str, preprocessor: Preprocessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, stage, lambda *_, **__: torch.full((25, 64), torch.nan))
    listener = Listener()
    with pytest.raises(DatasetError, match="none of 2 samples"):
        preprocessor.run(tmp_path / "out", listener, dtype=dtype)
    failed = [event for event in listener.events if isinstance(event, ItemFailed)]
    assert len(failed) == 2
    assert all("NaN or infinite values" in event.message for event in failed)
    assert all({"fp32": "float32", "bf16": "bfloat16"}[dtype] in event.message for event in failed)
    assert all(("--dtype fp32" in event.hint) == (dtype == "bf16") for event in failed)


def test_encoding_needs_no_float64_which_mps_lacks(preprocessor: Preprocessor, tmp_path: Path) -> None:
    with Operations() as operations:
        preprocessor.run(tmp_path / "out")
    assert operations.calls
    assert not operations.in_float64()
