"""The service reports what it loads, and why that failed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from acestep.core.errors import CheckpointError
from acestep.ui.service import Service


def test_loading_reports_bytes_up_to_the_size_of_the_model(tiny_checkpoint: Path) -> None:
    service = Service()
    seen: list[tuple[int, int]] = []
    statuses: list[str] = []

    def report(done: int, total: int) -> None:
        seen.append((done, total))
        statuses.append(service.loading_status)

    service.initialize(tiny_checkpoint, report)
    done, total = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert len(set(total)) == 1
    assert done[-1] > 0.9 * total[0]
    assert all(status.startswith("Loading acestep-v15-tiny, ") and " elapsed" in status for status in statuses)
    assert service.loading_status == ""
    service.unload()


def test_the_reason_why_a_model_was_not_loaded_is_kept(tiny_checkpoint: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(tiny_checkpoint, tmp_path / "models" / tiny_checkpoint.name))
    (broken / "silence_latent.pt").unlink()
    service = Service()
    with pytest.raises(CheckpointError):
        service.initialize(broken)
    assert "silence_latent.pt is missing" in service.problem
    assert service.loading_status == ""
    service.unload()
    assert service.problem == ""
