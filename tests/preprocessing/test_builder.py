"""The job ``preprocess``, the class ``DatasetBuilder``, and their config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from acestep.core.config import parse
from acestep.core.errors import ConfigError, DatasetError, JobCancelled
from acestep.core.event_log import EventLog
from acestep.core.events import Event, Failed, Finished, Started
from acestep.core.jobs import run_job, write_job
from acestep.dataset.scan import scan_folder
from acestep.dataset.store import write_dataset
from acestep.preprocessing.builder import DatasetBuilder
from acestep.preprocessing.configs import PreprocessJob
from tests.preprocessing.conftest import TAG, Preprocessor, tensors


def test_the_job_accepts_an_audio_folder(encoded: Path, preprocessor: Preprocessor, tmp_path: Path) -> None:
    write_job(tmp_path / "run", "preprocess", preprocessor.job(encoded))
    last = run_job(tmp_path / "run")
    assert isinstance(last, Finished), last
    assert (last.result["ready"], last.result["up_to_date"]) == (2, 2)
    events, _ = EventLog(tmp_path / "run" / "events.jsonl").read()
    assert any(isinstance(event, Started) for event in events)


def test_the_job_overrides_tag_and_tag_position_of_a_dataset_file(
    encoded: Path, preprocessor: Preprocessor, tmp_path: Path
) -> None:
    dataset = scan_folder(preprocessor.audio_dir, custom_tag="tag of the file", tag_position="append").dataset
    write_dataset(preprocessor.audio_dir / "mine.json", dataset)
    job = preprocessor.job(encoded, source=preprocessor.audio_dir / "mine.json", tag_position="prepend")
    write_job(tmp_path / "run", "preprocess", job)
    last = run_job(tmp_path / "run")
    assert isinstance(last, Finished), last
    assert last.result["up_to_date"] == 2  # the overridden tag and position equal those of the encoded samples


def test_a_missing_source_fails_with_its_name_and_is_not_a_bug(tmp_path: Path, preprocessor: Preprocessor) -> None:
    write_job(tmp_path / "run", "preprocess", preprocessor.job(tmp_path / "out", source=tmp_path / "gone.json"))
    last = run_job(tmp_path / "run")
    assert isinstance(last, Failed)
    assert (last.is_bug, "gone.json" in last.message) == (False, True)


def test_the_builder_scans_saves_loads_and_preprocesses_in_both_modes(
    encoded: Path, preprocessor: Preprocessor, tmp_path: Path
) -> None:
    builder = DatasetBuilder()
    with pytest.raises(DatasetError, match="no dataset is loaded"):
        builder.preprocess(str(preprocessor.checkpoint), encoded)
    builder.scan(preprocessor.audio_dir, custom_tag=TAG)
    builder.save(tmp_path / "mine.json")
    other = DatasetBuilder()
    assert [sample.id for sample in other.load(tmp_path / "mine.json").samples] == [
        sample.id for sample in builder.scan(preprocessor.audio_dir).dataset.samples
    ]
    builder.scan(preprocessor.audio_dir, custom_tag=TAG)
    events: list[Event] = []
    before = tensors(encoded)
    assert builder.preprocess(str(preprocessor.checkpoint), encoded, on_event=events.append)["up_to_date"] == 2
    assert other.preprocess_two_pass(str(preprocessor.checkpoint), encoded)["mode"] == "two_pass"
    assert tensors(encoded) == before
    assert any(isinstance(event, Started) for event in events)


def test_a_callback_of_the_builder_can_cancel(preprocessor: Preprocessor, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Started):
            raise JobCancelled("cancelled")

    builder = DatasetBuilder()
    builder.scan(preprocessor.audio_dir, custom_tag=TAG)
    with pytest.raises(JobCancelled, match="0 of 2 samples are encoded"):
        builder.preprocess(str(preprocessor.checkpoint), tmp_path / "out", on_event=stop)


def test_the_config_has_the_documented_defaults_and_limits() -> None:
    job = parse(PreprocessJob, {"source": "a", "checkpoint": "b"})
    assert (job.max_duration_s, job.normalize, job.seed, job.two_pass) == (240, "none", 42, False)
    for key, value in (("max_duration_s", 9), ("max_duration_s", 601), ("genre_ratio", 101), ("normalize", "loud")):
        with pytest.raises(ConfigError, match=key):
            parse(PreprocessJob, {"source": "a", "checkpoint": "b", key: value})
    with pytest.raises(ConfigError, match="source is missing"):
        parse(PreprocessJob, {"checkpoint": "b"})
    assert json.loads(json.dumps(job.model_dump(mode="json")))["source"] == "a"
