"""The source of each sample: its text, its tensor file, its lyrics, its hash."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from acestep.dataset.sample import Dataset
from acestep.dataset.scan import scan_folder
from acestep.models.checkpoint import find_checkpoint
from acestep.preprocessing.sample_sources import SampleSource, apply_overrides, iter_sample_sources
from tests.bad_files import song
from tests.preprocessing.conftest import TAG, Preprocessor, label


def sources_of(preprocessor: Preprocessor, dataset: Dataset | None = None, **settings: Any) -> dict[str, SampleSource]:
    """The sample sources with these settings, by name. A failure is raised."""
    job = preprocessor.job(Path("out"), **settings)
    dataset = apply_overrides(dataset or scan_folder(preprocessor.audio_dir).dataset, job)
    checkpoint = find_checkpoint(preprocessor.checkpoint)

    def raise_failure(name: str, error: Exception) -> None:
        raise error

    dtype_name = {"auto": "float32", "bf16": "bfloat16"}[job.dtype]
    sources = iter_sample_sources(dataset, preprocessor.audio_dir.resolve(), job, checkpoint, dtype_name, raise_failure)
    return {source.name: source for source in sources}


def test_tag_and_tag_position_of_the_job_override_the_dataset(preprocessor: Preprocessor) -> None:
    dataset = scan_folder(preprocessor.audio_dir, custom_tag="old", tag_position="append").dataset
    sources = {
        "a slow sine wave, old": sources_of(preprocessor, dataset, tag=None),
        f"a slow sine wave, {TAG}": sources_of(preprocessor, dataset),
        "old, a slow sine wave": sources_of(preprocessor, dataset, tag=None, tag_position="prepend"),
        TAG: sources_of(preprocessor, dataset, tag_position="replace"),
        "a slow sine wave": sources_of(preprocessor, dataset, tag=""),
    }
    assert list(sources) == [each["one.wav"].text for each in sources.values()]
    assert sources["a slow sine wave, old"]["one.wav"].metadata["custom_tag"] == "old"
    assert dataset.metadata.custom_tag == "old"


def test_the_genre_ratio_of_the_job_selects_genres(preprocessor: Preprocessor) -> None:
    dataset = scan_folder(preprocessor.audio_dir).dataset
    dataset.samples[0].genre = "minimal"
    assert sources_of(preprocessor, dataset, genre_ratio=100)["one.wav"].text == f"{TAG}, minimal"
    assert sources_of(preprocessor, dataset)["one.wav"].text == f"{TAG}, a slow sine wave"


def test_included_unlabeled_samples_are_described_by_the_tag_alone(preprocessor: Preprocessor) -> None:
    song(preprocessor.audio_dir / "bare.wav", 1.1)
    sources = sources_of(preprocessor, include_unlabelled=True)
    assert sources["bare.wav"].text == TAG
    assert sources["one.wav"].text == f"{TAG}, a slow sine wave"


def test_lyrics_determine_whether_a_sample_is_instrumental(preprocessor: Preprocessor) -> None:
    dataset = scan_folder(preprocessor.audio_dir).dataset
    dataset.samples[0].language = "en"
    dataset.samples[1].language = "en"
    dataset.samples[0].is_instrumental = True
    one, two = sources_of(preprocessor, dataset).values()
    assert (one.lyrics, one.language, one.metadata["is_instrumental"]) == ("[Verse]\nla la la", "en", False)
    assert (two.lyrics, two.language, two.metadata["is_instrumental"]) == ("[Instrumental]", "unknown", True)


@pytest.mark.parametrize("unsafe_id", ["../../escaped", "/etc/passwd", "C:\\x", "con", "a" * 300])
def test_an_unsafe_id_gives_a_file_inside_the_output_folder(preprocessor: Preprocessor, unsafe_id: str) -> None:
    dataset = scan_folder(preprocessor.audio_dir).dataset
    first = dataset.samples[0].model_copy(update={"id": unsafe_id})
    (source,) = sources_of(preprocessor, Dataset(metadata=dataset.metadata, samples=[first])).values()
    assert Path(source.file).name == source.file
    assert len(source.file) <= 110
    assert Path("out", source.file).resolve().parent == Path("out").resolve()


def test_the_encode_seed_depends_only_on_the_audio_and_the_seed_of_the_job(preprocessor: Preprocessor) -> None:
    before = {name: source.encode_seed for name, source in sources_of(preprocessor).items()}
    unchanged = {
        name: source.encode_seed for name, source in sources_of(preprocessor, tag="other", normalize="peak").items()
    }
    other = {name: source.encode_seed for name, source in sources_of(preprocessor, seed=43).items()}
    assert before == unchanged
    assert len({*before.values(), *other.values()}) == 4


def test_the_content_hash_depends_on_audio_labels_and_settings_but_not_on_paths(
    preprocessor: Preprocessor, tmp_path: Path
) -> None:
    def hashes(**settings: Any) -> dict[str, str]:
        return {name: source.content_hash for name, source in sources_of(preprocessor, **settings).items()}

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
    label(preprocessor.audio_dir / "one.wav", "a slow sine wave", "[Verse]\nother lyrics")
    song(preprocessor.audio_dir / "sub" / "two.flac", 1.6)
    assert not set(before.values()) & set(hashes().values())
    shutil.copytree(preprocessor.checkpoint, tmp_path / "models" / "renamed")
    shutil.copytree(preprocessor.audio_dir, tmp_path / "elsewhere")
    moved = Preprocessor(tmp_path / "elsewhere", tmp_path / "models" / "renamed")
    assert hashes() == {name: source.content_hash for name, source in sources_of(moved).items()}
