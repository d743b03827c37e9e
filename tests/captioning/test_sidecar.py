"""The dataset scan reads the written label files without loss."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestep.captioning.edits import save_edit
from acestep.captioning.sidecar import USER, lyric_labels, read_labels, write_labels
from acestep.core.errors import CaptionError, DatasetError
from acestep.dataset.labels import is_failure
from acestep.dataset.scan import scan_folder

NOTHING = ("n/a", "na", "none", "null", "-", "?", "unknown")
WORDS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=3, max_size=60).map(str.strip).filter(
    lambda text: text and text.lower() not in NOTHING and not is_failure(text)
)  # fmt: skip
LYRIC_LINES = st.lists(WORDS, min_size=1, max_size=5).map(lambda lines: "[Verse]\n" + "\n".join(lines))
KEYS = st.sampled_from(
    [f"{note}{sign} {mode}" for note in "ABCDEFG" for sign in ("", "#", "b") for mode in ("Major", "Minor")]
)


def sample(songs, name="first.wav"):
    return next(found for found in scan_folder(songs).dataset.samples if found.filename == name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(
    caption=WORDS,
    genre=WORDS,
    bpm=st.integers(30, 300),
    keyscale=KEYS,
    timesignature=st.sampled_from(["2", "3", "4", "6"]),
    lyrics=LYRIC_LINES | st.just("[Instrumental]"),
    language=st.sampled_from(["en", "zh", "ko", "yue", "unknown"]),
    source=st.sampled_from([USER, "acestep-captioner"]),
    texts=st.booleans(),
)
def test_all_labels_are_read_back_by_the_scan(songs, source, texts, lyrics, language, **values):
    labels = {name: (value, source) for name, value in values.items()} | lyric_labels(lyrics, language, source)
    write_labels(read_labels(sample(songs)), labels, extra={"duration": 9}, texts=texts)
    found = sample(songs)
    assert {name: getattr(found, name) for name in values} == values
    assert found.lyrics == lyrics
    assert found.language == ("unknown" if lyrics == "[Instrumental]" else language)
    assert found.is_instrumental == (lyrics == "[Instrumental]")
    assert found.labeled
    assert {found.sources[name] for name in values} == {source}
    assert read_labels(found).locked == (set(found.sources) if source == USER else set())


def test_keys_of_other_programs_are_kept(songs):
    (songs / "first.json").write_text('{"rating": 5, "sources": "strange", "written": [1]}')
    write_labels(read_labels(sample(songs)), {"caption": ("A song", "model")}, extra={}, texts=False)
    labels = json.loads((songs / "first.json").read_text())
    assert (labels["rating"], labels["sources"], labels["caption"]) == (5, {"caption": "model"}, "A song")


def test_an_instrumental_song_has_no_lyrics_file(songs):
    write_labels(read_labels(sample(songs)), lyric_labels("[Verse]\nla", "en", "model"), extra={}, texts=True)
    assert (songs / "first.lyrics.txt").exists()
    write_labels(read_labels(sample(songs)), lyric_labels("[Instrumental]", "en", "model"), extra={}, texts=True)
    assert not (songs / "first.lyrics.txt").exists()
    assert sample(songs).is_instrumental


@pytest.mark.parametrize("caption", ["", "  ", "Error: CUDA out of memory", "\u274c failed"])
def test_an_error_message_is_not_saved_as_a_caption(songs, caption):
    with pytest.raises(CaptionError):
        write_labels(read_labels(sample(songs)), {"caption": (caption, "model")}, extra={}, texts=True)
    assert not (songs / "first.json").exists()


def test_an_edit_is_validated_saved_and_locked(songs):
    edited = save_edit(sample(songs), {"caption": "Mine", "bpm": "128", "is_instrumental": False})
    assert (edited.caption, edited.bpm, edited.sources["bpm"]) == ("Mine", 128, USER)
    assert read_labels(sample(songs)).locked == {"caption", "bpm", "is_instrumental"}
    with pytest.raises(DatasetError, match="bpm"):
        save_edit(sample(songs), {"bpm": "fast"})
    with pytest.raises(DatasetError, match="mood"):
        save_edit(sample(songs), {"mood": "sad"})


def test_a_cleared_label_can_be_generated_again(songs):
    save_edit(sample(songs), {"caption": "Mine"})
    assert (songs / "first.caption.txt").exists()
    save_edit(sample(songs), {"caption": "", "bpm": None})
    assert not (songs / "first.caption.txt").exists()
    assert not sample(songs).labeled
    assert read_labels(sample(songs)).may_write("caption", "keep")
