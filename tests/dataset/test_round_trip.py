"""Arbitrary labels survive a round trip through the dataset file and the JSON sidecar."""

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

texts = st.text(max_size=60)
counts = st.integers(0, 10**6)
names = st.from_regex(r"[0-9a-f]{8}", fullmatch=True)
lower = st.sampled_from(["en", "de", "zh", "yue", "unknown"])
keys = st.from_regex(r"[A-G][#b]? ([Mm]ajor|[Mm]inor)", fullmatch=True)
tempos = st.none() | st.integers(1, 999)

samples = st.builds(
    Sample,
    id=names,
    audio_path=texts.filter(lambda text: "\0" not in text).map(lambda text: f"/gone/{text}.wav"),
    filename=texts.map(lambda text: f"{text}.wav"),
    caption=texts.map(lambda text: f"a {text}"),
    genre=texts,
    lyrics=texts,
    raw_lyrics=texts,
    formatted_lyrics=texts,
    bpm=tempos,
    keyscale=keys,
    timesignature=st.sampled_from(["", "2", "3", "4", "6"]),
    duration=counts,
    language=lower,
    is_instrumental=st.booleans(),
    custom_tag=texts,
    labeled=st.booleans(),
    prompt_override=st.sampled_from([None, "caption", "genre"]),
    sources=st.dictionaries(texts, texts, max_size=3),
)
metadata = st.builds(
    DatasetMetadata,
    name=texts,
    custom_tag=texts,
    tag_position=st.sampled_from(["prepend", "append", "replace"]),
    all_instrumental=st.booleans(),
    genre_ratio=st.integers(0, 100),
)


@QUICK
@given(metadata=metadata, items=st.lists(samples, min_size=1, max_size=4, unique_by=lambda sample: sample.id))
def test_a_dataset_file_round_trip_is_lossless(tmp_path, metadata, items):
    write_dataset(tmp_path / "set.json", Dataset(metadata=metadata, samples=items))
    read = read_dataset(tmp_path / "set.json")
    assert read.samples == items
    updated = {"created_at": read.metadata.created_at, "num_samples": len(items)}
    assert read.metadata == metadata.model_copy(update=updated)


def is_not_empty(text):
    return text.strip().lower() not in ("", "n/a", "na", "none", "null", "-", "?", "unknown")


non_empty = texts.filter(is_not_empty)
unknown_keys = st.dictionaries(texts.map(lambda text: f"x {text}"), st.none() | st.integers() | texts, max_size=3)
labels = st.fixed_dictionaries(
    {},
    optional={
        "caption": non_empty.filter(lambda text: not is_failure(text)),
        "genre": non_empty,
        "bpm": st.integers(1, 999),
        "keyscale": keys,
        "timesignature": st.sampled_from(["2", "3", "4", "6"]),
        "lyrics": non_empty,
        "language": lower.filter(is_not_empty),
        "prompt_override": st.sampled_from(["caption", "genre"]),
    },
)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    return bad_files.song(tmp_path_factory.mktemp("songs") / "song.wav", 1.5, rate=8000)


@QUICK
@given(labels=labels, unknown_keys=unknown_keys)
def test_a_sidecar_round_trip_is_lossless(audio, labels, unknown_keys):
    audio.with_suffix(".json").write_text(json.dumps(unknown_keys), encoding="utf-8")
    path = write_sidecar(audio, labels)
    assert unknown_keys.items() <= json.loads(path.read_text(encoding="utf-8")).items()
    scan = scan_folder(audio.parent)
    (sample,) = scan.dataset.samples
    assert scan.problems == []
    assert {key: getattr(sample, key) for key in labels} == labels
    assert sample.labeled == ("caption" in labels)
    assert set(labels) <= set(sample.sources)


@pytest.mark.parametrize(("lyrics", "instrumental"), [("[Instrumental]", True), ("some lyrics", False)])
def test_the_instrumental_flag_round_trip_is_lossless(audio, lyrics, instrumental):
    audio.with_suffix(".json").unlink(missing_ok=True)
    write_sidecar(audio, {"lyrics": lyrics, "is_instrumental": instrumental})
    (sample,) = scan_folder(audio.parent, all_instrumental=not instrumental).dataset.samples
    assert (sample.lyrics, sample.is_instrumental) == (lyrics, instrumental)
