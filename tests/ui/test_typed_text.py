"""Fields of each kind in each tab of the trainer page keep what is typed when the program is killed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.typed_text import TABS, drill, write_songs
from tests.ui.drive import chromium

pytestmark = pytest.mark.browser


def test_what_is_typed_in_each_tab_survives_a_kill_of_the_program_and_a_second_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dev.typed_text.PAUSE_MS", 3000)  # other tests use the processors too
    with chromium() as browser:
        report = drill(browser, tmp_path / "workspace", write_songs(tmp_path / "songs"), thorough=False)
    assert not any(report.lost.values()), report.lost
    assert {key.tab for key in report.typed} == set(TABS) - {"Runs"}  # has fields only with a run
