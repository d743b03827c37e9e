import random

import pytest

from acestep.dataset.prompt import caption_with_tag, training_texts
from acestep.dataset.sample import Dataset, DatasetMetadata, Sample


def dataset(samples, **metadata):
    return Dataset(metadata=DatasetMetadata(**metadata), samples=samples)


def labeled_samples(number):
    return [Sample(id=str(n), caption=f"caption {n}", genre=f"genre {n}", labeled=True) for n in range(number)]


@pytest.mark.parametrize(
    ("text", "tag", "position", "expected"),
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
def test_the_tag_is_inserted_at_its_position(text, tag, position, expected):
    assert caption_with_tag(text, tag, position) == expected


def test_the_genre_ratio_selects_the_same_samples_as_ace_lora_trainer():
    order = list(range(10))
    random.seed(42)
    random.shuffle(order)
    texts = training_texts(dataset(labeled_samples(10), genre_ratio=35))
    assert {n for n, text in enumerate(texts) if text.startswith("genre")} == set(order[:3])


def test_the_selection_is_reproducible_and_does_not_change_the_global_random_state():
    random.seed(7)
    before = random.getstate()
    first = training_texts(dataset(labeled_samples(20), genre_ratio=50))
    assert random.getstate() == before
    assert training_texts(dataset(labeled_samples(20), genre_ratio=50)) == first


def test_the_genre_ratio_can_select_all_or_no_samples():
    assert training_texts(dataset(labeled_samples(3), genre_ratio=100)) == ["genre 0", "genre 1", "genre 2"]
    assert training_texts(dataset(labeled_samples(3), genre_ratio=0)) == ["caption 0", "caption 1", "caption 2"]


def test_the_prompt_override_of_a_sample_takes_precedence_over_the_ratio():
    samples = labeled_samples(2)
    samples[0].prompt_override = "genre"
    assert training_texts(dataset(samples, genre_ratio=0, custom_tag="zx")) == ["zx, genre 0", "zx, caption 1"]
    samples[0].prompt_override = "caption"
    assert training_texts(dataset(samples, genre_ratio=100))[0] == "caption 0"


def test_unlabeled_samples_have_no_text_and_are_excluded_from_the_ratio():
    samples = labeled_samples(4)
    samples[1].labeled = False
    texts = training_texts(dataset(samples, genre_ratio=34))
    assert len(texts) == 3
    assert sum(text.startswith("genre") for text in texts) == 1


def test_a_sample_without_the_selected_text_uses_the_other():
    samples = labeled_samples(1)
    samples[0].genre = ""
    assert training_texts(dataset(samples, genre_ratio=100, custom_tag="zx")) == ["zx, caption 0"]
