"""What each song is trained on: its text, its file, its words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from acestep.dataset.sample import Dataset
from acestep.dataset.scan import scan_folder
from acestep.models.checkpoint import find_checkpoint
from acestep.preprocessing.sample_sources import Song, apply_overrides, plan_songs
from tests.bad_files import song
from tests.preprocessing.conftest import TAG, Workshop, label


def planned(workshop: Workshop, dataset: Dataset | None = None, **settings: Any) -> dict[str, Song]:
    """The songs of a run with these settings, by name; none may be refused."""
    job = workshop.job(Path("out"), **settings)
    dataset = apply_overrides(dataset or scan_folder(workshop.songs).dataset, job)
    checkpoint = find_checkpoint(workshop.checkpoint)

    def refuse(name: str, problem: Exception) -> None:
        raise problem

    precision = {"auto": "float32", "bf16": "bfloat16"}[job.dtype]
    songs = plan_songs(dataset, workshop.songs.resolve(), job, checkpoint, precision, refuse)
    return {song.name: song for song in songs}


def test_the_tag_and_its_place_are_the_datasets_unless_the_job_has_its_own(workshop: Workshop) -> None:
    dataset = scan_folder(workshop.songs, custom_tag="old", tag_position="append").dataset
    found = {
        "a slow sine wave, old": planned(workshop, dataset, tag=None),
        f"a slow sine wave, {TAG}": planned(workshop, dataset),
        "old, a slow sine wave": planned(workshop, dataset, tag=None, tag_position="prepend"),
        TAG: planned(workshop, dataset, tag_position="replace"),
        "a slow sine wave": planned(workshop, dataset, tag=""),
    }
    assert list(found) == [songs["one.wav"].text for songs in found.values()]
    assert found["a slow sine wave, old"]["one.wav"].metadata["custom_tag"] == "old"
    assert dataset.metadata.custom_tag == "old"


def test_the_genre_ratio_of_the_job_chooses_genres(workshop: Workshop) -> None:
    dataset = scan_folder(workshop.songs).dataset
    dataset.samples[0].genre = "minimal"
    assert planned(workshop, dataset, genre_ratio=100)["one.wav"].text == f"{TAG}, minimal"
    assert planned(workshop, dataset)["one.wav"].text == f"{TAG}, a slow sine wave"


def test_unlabelled_songs_that_are_included_are_described_by_the_tag_alone(workshop: Workshop) -> None:
    song(workshop.songs / "bare.wav", 1.1)
    songs = planned(workshop, include_unlabelled=True)
    assert songs["bare.wav"].text == TAG
    assert songs["one.wav"].text == f"{TAG}, a slow sine wave"


def test_words_decide_whether_a_song_is_sung(workshop: Workshop) -> None:
    dataset = scan_folder(workshop.songs).dataset
    dataset.samples[0].language = "en"
    dataset.samples[1].language = "en"
    dataset.samples[0].is_instrumental = True
    one, two = planned(workshop, dataset).values()
    assert (one.lyrics, one.language, one.metadata["is_instrumental"]) == ("[Verse]\nla la la", "en", False)
    assert (two.lyrics, two.language, two.metadata["is_instrumental"]) == ("[Instrumental]", "unknown", True)


@pytest.mark.parametrize("wild", ["../../escaped", "/etc/passwd", "C:\\x", "con", "a" * 300])
def test_an_id_that_is_a_path_stays_inside_the_folder(workshop: Workshop, wild: str) -> None:
    dataset = scan_folder(workshop.songs).dataset
    first = dataset.samples[0].model_copy(update={"id": wild})
    (found,) = planned(workshop, Dataset(metadata=dataset.metadata, samples=[first])).values()
    assert Path(found.file).name == found.file
    assert len(found.file) <= 110
    assert Path("out", found.file).resolve().parent == Path("out").resolve()


def test_the_seed_of_a_song_depends_on_its_sound_and_the_jobs_seed_alone(workshop: Workshop) -> None:
    before = {name: song.encode_seed for name, song in planned(workshop).items()}
    again = {name: song.encode_seed for name, song in planned(workshop, tag="other", normalize="peak").items()}
    other = {name: song.encode_seed for name, song in planned(workshop, seed=43).items()}
    assert before == again
    assert len({*before.values(), *other.values()}) == 4


def test_sound_words_and_settings_make_a_tensor_out_of_date_and_places_do_not(
    workshop: Workshop, tmp_path: Path
) -> None:
    def hashes(**settings: Any) -> dict[str, str]:
        return {name: song.content_hash for name, song in planned(workshop, **settings).items()}

    before = hashes()
    for change in (
        {"tag": "other"},
        {"tag_position": "append"},
        {"normalize": "peak"},
        {"max_duration_s": 60},
        {"seed": 43},
        {"dtype": "bf16"},
    ):
        assert not set(before.values()) & set(hashes(**change).values()), change
    label(workshop.songs / "one.wav", "a slow sine wave", "[Verse]\nother words")
    song(workshop.songs / "sub" / "two.flac", 1.6)
    assert not set(before.values()) & set(hashes().values())
    shutil.copytree(workshop.checkpoint, tmp_path / "models" / "renamed")
    shutil.copytree(workshop.songs, tmp_path / "elsewhere")
    moved = Workshop(tmp_path / "elsewhere", tmp_path / "models" / "renamed")
    assert hashes() == {name: song.content_hash for name, song in planned(moved).items()}
