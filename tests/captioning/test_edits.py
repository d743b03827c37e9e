"""Bulk edits of labels: preview, apply and undo."""

from __future__ import annotations

import json

import pytest

from acestep.captioning.edits import save_edit
from acestep.captioning.sidecar import USER, read_labels, write_labels
from acestep.core.errors import DatasetError
from acestep.dataset.scan import scan_folder
from acestep.ui.bulk_edit import changes_of
from acestep.ui.captioner.audio_folder import AudioFolder
from acestep.ui.captioner.review_tab import CaptionEdit

NAMES = ("first", "second", "sub/third")


@pytest.fixture
def app(songs):
    """Three songs; the first two have generated captions."""
    for sample in scan_folder(songs).dataset.samples[:2]:
        caption = (f"A calm piece, {sample.filename}", "model")
        write_labels(read_labels(sample), {"caption": caption}, extra={"rating": 5}, texts=True)
    found = AudioFolder()
    found.open(songs)
    return found


def change(app, **edit):
    """Apply a bulk edit as the panel does."""
    bulk_edit = CaptionEdit(**edit)
    changes = changes_of(bulk_edit, app.samples)
    return app.relabel({each.index: {bulk_edit.field: each.after} for each in changes})


def read(songs, name):
    return json.loads((songs / f"{name}.json").read_text(encoding="utf-8"))


def files(songs):
    return {path: path.read_bytes() for path in songs.rglob("*.*") if path.suffix != ".wav"}


def test_replacing_a_word_edits_and_locks_every_caption(app, songs):
    assert change(app, action="replace", find="calm", text="quiet") == 2
    first = read(songs, "first")
    assert first["caption"] == "A quiet piece, first.wav"
    assert (first["sources"]["caption"], first["rating"]) == (USER, 5)
    assert (songs / "first.caption.txt").read_text() == "A quiet piece, first.wav\n"
    assert not (songs / "sub" / "third.json").exists()
    assert "caption" in app.find("first.wav").known.locked


def test_prepending_requires_a_caption_and_a_trigger_word_does_not(app, songs):
    assert change(app, action="before", text="zx_style, ") == 2
    assert read(songs, "second")["caption"] == "zx_style, A calm piece, second.wav"
    assert change(app, field="custom_tag", text=" zx ") == 3
    assert [read(songs, name)["custom_tag"] for name in NAMES] == ["zx"] * 3
    assert change(app, field="custom_tag", text="zx") == 0
    assert [sample.has_caption for sample in scan_folder(songs).dataset.samples] == [True, True, False]


def test_undo_restores_the_files(app, songs):
    before = files(songs)
    change(app, field="bpm", text="120")
    assert [read(songs, name)["bpm"] for name in NAMES] == [120] * 3
    middle = files(songs)
    change(app, field="genre", text="folk", only_empty=True)
    app.undo()
    assert files(songs) == middle
    app.undo()
    assert files(songs) == before
    with pytest.raises(DatasetError, match="nothing to undo"):
        app.undo()


def test_undo_keeps_files_that_changed_since(app, songs):
    change(app, field="genre", text="folk")
    save_edit(app.find("second.wav").sample, {"caption": "Edited later"})
    with pytest.raises(DatasetError, match=r"1 label files changed since.*second.json"):
        app.undo()
    assert read(songs, "second")["caption"] == "Edited later"
    assert read(songs, "second")["genre"] == "folk"
    assert "genre" not in read(songs, "first")


def test_an_invalid_value_changes_nothing(app, songs):
    before = files(songs)
    with pytest.raises(DatasetError, match="bpm must be a number"):
        change(app, field="bpm", text="quick")
    assert files(songs) == before


@pytest.mark.parametrize(
    ("suffix", "content"), [("csv", "File,Lyrics,Language\nfirst.wav,La la,en\n"), ("txt", "La la\n")]
)
def test_an_instrumental_edit_overrides_older_lyrics_files(app, songs, suffix, content):
    (songs / f"first.{suffix}").write_text(content)
    assert app.samples[0].lyrics == "La la"
    app.edit("first.wav", {"lyrics": "[Instrumental]", "is_instrumental": True})
    sample = app.find("first.wav").sample
    assert (sample.lyrics, sample.is_instrumental, sample.language) == ("[Instrumental]", True, "unknown")


def test_text_for_a_file_that_was_never_listed_is_not_written(tmp_path):
    folder = AudioFolder()
    folder.autosave.put(str(tmp_path / "other.wav"), "caption", "from a request that no page sends")
    folder.autosave.flush()
    assert list(tmp_path.iterdir()) == []
    assert not folder.autosave.waiting
