"""What the trainer page asks about songs without a caption, and what follows from the answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from acestep.core.errors import CaptionError, ConfigError
from acestep.dataset.scan import scan_folder
from acestep.ui.trainer import captions, workflow
from acestep.ui.trainer.app_state import AppState
from acestep.ui.workspace import Workspace
from tests.songs import write_song


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three songs; the first one has a caption."""
    for seed in range(3):
        write_song(tmp_path / "songs" / f"{seed}.wav", 1.0, seed)
    (tmp_path / "songs" / "0.caption.txt").write_text("A calm piece")
    return tmp_path / "songs"


@pytest.fixture
def app(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AppState:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    app = AppState(Workspace(tmp_path / "workspace"))
    app.dataset.scan(folder, custom_tag="zx")
    return app


def dataset_step(app: AppState) -> workflow.WorkflowStep:
    return workflow.steps(app)[1]


def test_the_step_waits_for_a_decision(app: AppState, folder: Path, tmp_path: Path) -> None:
    assert (dataset_step(app).decide, dataset_step(app).done) == (True, False)
    captions.decide(app, "tag")
    assert (dataset_step(app).decide, dataset_step(app).done) == (False, True)
    assert app.settings.get("preprocess.include_unlabelled") is True
    assert dataset_step(AppState(Workspace(tmp_path / "workspace"))).done
    write_song(folder / "3.wav", 1.0, 3)
    app.dataset.scan(folder)
    assert dataset_step(app).decide
    captions.decide(app, "captioner")
    assert app.settings.get("preprocess.include_unlabelled") is False


def test_captions_of_all_songs_need_no_decision(app: AppState) -> None:
    app.dataset.relabel({1: {"caption": "Mine"}, 2: {"caption": "Mine too"}})
    assert (dataset_step(app).done, dataset_step(app).status) == (True, "3 of 3 songs labeled")


def test_training_with_the_tag_alone_needs_a_tag(app: AppState) -> None:
    app.dataset.set_metadata(custom_tag="")
    with pytest.raises(ConfigError, match="no activation tag"):
        captions.decide(app, "tag")
    assert dataset_step(app).decide


def test_describing_songs_without_a_captioner_names_what_is_needed(app: AppState) -> None:
    with pytest.raises(CaptionError) as caught:
        captions.describe_songs(app)
    assert "acestep-captioner" in caught.value.hint
    assert "GEMINI_API_KEY" in caught.value.hint


def test_the_tag_that_most_label_files_state_is_found(folder: Path) -> None:
    for name, tag in (("0", "zx_band"), ("1", "zx_band"), ("2", "other")):
        (folder / f"{name}.json").write_text(f'{{"custom_tag": "{tag}"}}')
    found = scan_folder(folder)
    assert (found.custom_tag, found.dataset.metadata.custom_tag) == ("zx_band", "")
