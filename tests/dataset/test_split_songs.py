"""Segments of a long recording carry its labels."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from acestep.dataset.scan import scan_folder
from acestep.dataset.split_songs import split_songs
from tests import bad_files

CASE = Path(__file__).parents[1] / "fixtures" / "label_files" / "split_drops_labels"
LRC = "[verse]\n[00:01.00]first\n[00:11.50]second\n[chorus]\n[00:21.00]third\n"


@pytest.fixture
def music(tmp_path: Path) -> Path:
    bad_files.song(tmp_path / "music" / "long.wav", 35, rate=8000)
    return tmp_path / "music"


def sidecar(path: Path) -> dict[str, Any]:
    labels: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return labels


def test_every_segment_has_the_labels_and_undivided_lyrics_are_reported(music: Path, tmp_path: Path) -> None:
    shutil.copy(CASE / "long.txt", music)
    result = split_songs(music, tmp_path / "out", 10)
    samples = scan_folder(tmp_path / "out").dataset.samples
    assert [(sample.caption, sample.bpm, sample.labeled) for sample in samples] == [("rock", 120, True)] * 3
    assert [(sample.lyrics, sample.is_instrumental) for sample in samples] == [("", False)] * 3
    assert any("long.wav: the segments have no lyrics" in line for line in result.left_out)


def test_lyrics_with_times_are_divided_and_their_times_start_with_the_segment(music: Path, tmp_path: Path) -> None:
    (music / "long.lrc").write_text(LRC)
    (music / "labels.csv").write_text("file,caption,key\nlong.wav,rock,Am\n")
    result = split_songs(music, tmp_path / "out", 10)
    samples = scan_folder(tmp_path / "out").dataset.samples
    assert [sample.lyrics for sample in samples] == ["[verse]\nfirst", "second", "[chorus]\nthird"]
    assert [sample.line_times_s for sample in samples] == [[1.0, 1.0], [1.5], [1.0, 1.0]]
    assert {(sample.keyscale, sample.sources["keyscale"]) for sample in samples} == {("A Minor", "labels.csv")}
    assert not any("lyrics" in line for line in result.left_out)


def test_a_segment_in_which_nobody_sings_is_instrumental(music: Path, tmp_path: Path) -> None:
    (music / "long.lrc").write_text("[00:01.00]first\n[00:25.00]last\n")
    split_songs(music, tmp_path / "out", 10)
    samples = scan_folder(tmp_path / "out", all_instrumental=False).dataset.samples
    assert [sample.is_instrumental for sample in samples] == [False, True, False]


def test_label_files_beside_segments_are_kept(music: Path, tmp_path: Path) -> None:
    shutil.copy(CASE / "long.txt", music)
    first, *_ = split_songs(music, tmp_path / "out", 10).segments
    first.with_suffix(".json").write_text('{"caption": "mine"}')
    split_songs(music, tmp_path / "out", 10)
    assert sidecar(first) == {"caption": "mine"}


def test_a_recording_without_labels_gives_segments_without_label_files(music: Path, tmp_path: Path) -> None:
    split_songs(music, tmp_path / "out", 10)
    assert list((tmp_path / "out").glob("*.json")) == []


def test_the_activation_tag_of_the_label_files_is_carried(music: Path, tmp_path: Path) -> None:
    (music / "long.json").write_text('{"caption": "rock", "custom_tag": "zx_band"}')
    result = split_songs(music, tmp_path / "out", 10)
    assert [sidecar(path)["custom_tag"] for path in result.segments] == ["zx_band"] * 3
    assert scan_folder(tmp_path / "out").custom_tag == "zx_band"
