"""Whatever a person can type comes back as it was, through both files that hold it."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acestep.dataset.labels import is_failure
from acestep.dataset.sample import Dataset, DatasetMetadata, Sample
from acestep.dataset.scan import scan_folder
from acestep.dataset.sidecars import write_sidecar
from acestep.dataset.store import read_dataset, write_dataset
from tests import bad_files

QUICK = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

words = st.text(max_size=60)
counts = st.integers(0, 10**6)
names = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
lower = st.sampled_from(["en", "de", "zh", "yue", "unknown"])
tempos = st.none() | st.integers(1, 999)

samples = st.builds(
    Sample,
    id=names,
    audio_path=words.filter(lambda text: "\0" not in text).map(lambda text: f"/gone/{text}.wav"),
    filename=words.map(lambda text: f"{text}.wav"),
    caption=words.map(lambda text: f"a {text}"),
    genre=words,
    lyrics=words,
    raw_lyrics=words,
    formatted_lyrics=words,
    bpm=tempos,
    keyscale=words,
    timesignature=st.sampled_from(["", "2", "3", "4", "6"]),
    duration=counts,
    language=lower,
    is_instrumental=st.booleans(),
    custom_tag=words,
    labeled=st.booleans(),
    prompt_override=st.sampled_from([None, "caption", "genre"]),
    sources=st.dictionaries(words, words, max_size=3),
)
metadata = st.builds(
    DatasetMetadata,
    name=words,
    custom_tag=words,
    tag_position=st.sampled_from(["prepend", "append", "replace"]),
    all_instrumental=st.booleans(),
    genre_ratio=st.integers(0, 100),
)


@QUICK
@given(metadata=metadata, songs=st.lists(samples, min_size=1, max_size=4, unique_by=lambda sample: sample.id))
def test_a_dataset_comes_back_as_it_was_written(tmp_path, metadata, songs):
    write_dataset(tmp_path / "set.json", Dataset(metadata=metadata, samples=songs))
    read = read_dataset(tmp_path / "set.json")
    assert read.samples == songs
    now = {"created_at": read.metadata.created_at, "num_samples": len(songs)}
    assert read.metadata == metadata.model_copy(update=now)


def says_something(text):
    return text.strip().lower() not in ("", "n/a", "na", "none", "null", "-", "?", "unknown")


spoken = words.filter(says_something)
foreign = st.dictionaries(words.map(lambda text: f"x {text}"), st.none() | st.integers() | words, max_size=3)
labels = st.fixed_dictionaries(
    {},
    optional={
        "caption": spoken.filter(lambda text: not is_failure(text)),
        "genre": spoken,
        "bpm": st.integers(1, 999),
        "keyscale": spoken,
        "timesignature": st.sampled_from(["2", "3", "4", "6"]),
        "lyrics": spoken,
        "language": lower.filter(says_something),
        "prompt_override": st.sampled_from(["caption", "genre"]),
    },
)


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    return bad_files.song(tmp_path_factory.mktemp("songs") / "song.wav", 1.5, rate=8000)


@QUICK
@given(labels=labels, foreign=foreign)
def test_a_sidecar_comes_back_as_it_was_written(song, labels, foreign):
    song.with_suffix(".json").write_text(json.dumps(foreign), encoding="utf-8")
    path = write_sidecar(song, labels)
    assert foreign.items() <= json.loads(path.read_text(encoding="utf-8")).items()
    found = scan_folder(song.parent)
    (sample,) = found.dataset.samples
    assert found.problems == []
    assert {key: getattr(sample, key) for key in labels} == labels
    assert sample.labeled == ("caption" in labels)
    assert set(labels) <= set(sample.sources)


@pytest.mark.parametrize(("lyrics", "instrumental"), [("[Instrumental]", True), ("words", False)])
def test_the_instrumental_mark_comes_back(song, lyrics, instrumental):
    song.with_suffix(".json").unlink(missing_ok=True)
    write_sidecar(song, {"lyrics": lyrics, "is_instrumental": instrumental})
    (sample,) = scan_folder(song.parent, all_instrumental=not instrumental).dataset.samples
    assert (sample.lyrics, sample.is_instrumental) == (lyrics, instrumental)
