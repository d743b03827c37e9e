import random

import pytest

from acestep.dataset.prompt import caption_with_tag, training_texts
from acestep.dataset.sample import Dataset, DatasetMetadata, Sample


def dataset(samples, **metadata):
    return Dataset(metadata=DatasetMetadata(**metadata), samples=samples)


def songs(number):
    return [Sample(id=str(n), caption=f"caption {n}", genre=f"genre {n}", labeled=True) for n in range(number)]


@pytest.mark.parametrize(
    ("text", "tag", "position", "wanted"),
    [
        ("a song", "zx", "prepend", "zx, a song"),
        ("a song", "zx", "append", "a song, zx"),
        ("a song", "zx", "replace", "zx"),
        ("", "zx", "append", "zx"),
        ("a song", "", "replace", "a song"),
        (" a song ", " ", "prepend", "a song"),
        ("", "", "prepend", ""),
    ],
)
def test_the_tag_is_put_where_it_belongs(text, tag, position, wanted):
    assert caption_with_tag(text, tag, position) == wanted


def test_the_genre_ratio_picks_the_existing_trainers_songs():
    order = list(range(10))
    random.seed(42)
    random.shuffle(order)
    texts = training_texts(dataset(songs(10), genre_ratio=35))
    assert {n for n, text in enumerate(texts) if text.startswith("genre")} == set(order[:3])


def test_the_choice_is_the_same_each_time_and_leaves_the_global_generator_alone():
    random.seed(7)
    before = random.getstate()
    first = training_texts(dataset(songs(20), genre_ratio=50))
    assert random.getstate() == before
    assert training_texts(dataset(songs(20), genre_ratio=50)) == first


def test_all_or_none_are_possible():
    assert training_texts(dataset(songs(3), genre_ratio=100)) == ["genre 0", "genre 1", "genre 2"]
    assert training_texts(dataset(songs(3), genre_ratio=0)) == ["caption 0", "caption 1", "caption 2"]


def test_a_songs_own_choice_comes_before_the_ratio():
    samples = songs(2)
    samples[0].prompt_override = "genre"
    assert training_texts(dataset(samples, genre_ratio=0, custom_tag="zx")) == ["zx, genre 0", "zx, caption 1"]
    samples[0].prompt_override = "caption"
    assert training_texts(dataset(samples, genre_ratio=100))[0] == "caption 0"


def test_unlabelled_songs_have_no_text_and_do_not_count_for_the_ratio():
    samples = songs(4)
    samples[1].labeled = False
    texts = training_texts(dataset(samples, genre_ratio=34))
    assert len(texts) == 3
    assert sum(text.startswith("genre") for text in texts) == 1


def test_a_song_without_the_wanted_text_takes_the_other():
    samples = songs(1)
    samples[0].genre = ""
    assert training_texts(dataset(samples, genre_ratio=100, custom_tag="zx")) == ["zx, caption 0"]
