"""Every field of the trainer page keeps what is typed when the program is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.typed_text import drill, write_songs
from tests.ui.drive import chromium

pytestmark = pytest.mark.browser

NEED_A_RUN = ("tr-compare-", "tr-runs-", "tr-train-smoothing")  # shown only when there is a run


def test_everything_that_is_typed_survives_a_kill_of_the_program_and_a_second_scan(tmp_path: Path) -> None:
    with chromium() as browser:
        report = drill(browser, tmp_path / "workspace", write_songs(tmp_path / "songs"), thorough=False)
    assert not any(report.lost.values()), report.lost
    assert [name for name in report.unreached if not name.startswith(NEED_A_RUN)] == []
