"""Benchmarks compare variants. The tests check what is reported, never how fast something is."""

import pytest

from acestep.benchmark import bench_preprocessing, bench_training
from acestep.core.errors import ConfigError
from acestep.preprocessing.configs import PreprocessJob
from tests.songs import write_song
from tests.training.runs import make_job
from tests.training.songs import write_samples


@pytest.fixture
def job(tmp_path, tiny_checkpoint):
    tensors = write_samples(tmp_path / "tensors", tiny_checkpoint, [(20, 6), (24, 8), (16, 4)])

    def make(**settings):
        job = make_job(tensors, tiny_checkpoint, tmp_path / "out", **settings)
        job.training.gradient_accumulation_steps = 1
        return job

    return make


def test_training_variants_alternate_and_are_compared_with_the_first(job, tmp_path):
    turns = []
    speeds = bench_training({"one": job(), "two": job(batch_size=2)}, steps=3, rounds=2, on_round=turns.append)
    assert [turn.rpartition(" ")[2] for turn in turns] == ["one", "two", "one", "two"]
    assert [speed.name for speed in speeds] == ["one", "two"]
    for speed, samples in zip(speeds, (1, 2), strict=True):
        assert speed.songs_per_hour == pytest.approx(3600 * samples / speed.median_s)
        assert speed.ratio == pytest.approx(speed.songs_per_hour / speeds[0].songs_per_hour)
    assert not (tmp_path / "out").exists()


def test_a_dataset_smaller_than_an_optimizer_step_is_rejected(job):
    wide = job(batch_size=3)
    wide.training.gradient_accumulation_steps = 2
    with pytest.raises(ConfigError, match="3 samples do not fill an optimizer step of 6"):
        bench_training({"wide": wide}, steps=1, rounds=1, on_round=print)


def test_preprocessing_is_timed_and_its_tensors_are_discarded(tmp_path, tiny_checkpoint):
    write_song(tmp_path / "songs" / "a.wav", 2.0, seed=1)
    (tmp_path / "songs" / "a.caption.txt").write_text("a calm piece")
    job = PreprocessJob(source=tmp_path / "songs", checkpoint=str(tiny_checkpoint), out=tmp_path / "out", device="cpu")
    two_pass = job.model_copy(update={"two_pass": True})
    speeds = bench_preprocessing({"one pass": job, "two": two_pass}, rounds=1, on_round=lambda text: None)
    assert [speed.songs_per_hour == pytest.approx(3600 / speed.median_s) for speed in speeds] == [True, True]
    assert not (tmp_path / "out").exists()
