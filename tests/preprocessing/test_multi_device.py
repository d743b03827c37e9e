"""Two processes, workers or those of a launcher, write the same files as a single process."""

import json
from pathlib import Path

import torch

from acestep.core.errors import JobCancelled
from acestep.core.events import ItemFailed, Progressed, Saved
from acestep.core.job_folder import JobFolder
from acestep.preprocessing.builder import preprocess_job
from tests.bad_files import with_nan
from tests.launched import run_launched_job
from tests.preprocessing.conftest import Listener, label, tensors


def manifest(out: Path) -> dict:
    return {**json.loads((out / "manifest.json").read_text()), "created_at": None}


def test_two_processes_write_the_same_bytes_and_one_manifest(preprocessor, tmp_path):
    label(with_nan(preprocessor.audio_dir / "broken.wav"), "a click")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # like each worker process, since the order of summation depends on it
    try:
        single = preprocessor.run(tmp_path / "single", single_listener := Listener())
    finally:
        torch.set_num_threads(threads)
    sharded = preprocessor.run(tmp_path / "sharded", listener := Listener(), devices=2)
    assert sharded["ready"] == single["ready"] == 2
    assert {**sharded, "out": ""} == {**single, "out": ""}
    assert tensors(tmp_path / "sharded") == tensors(tmp_path / "single")
    assert manifest(tmp_path / "sharded") == manifest(tmp_path / "single")
    assert sorted(listener.messages(ItemFailed)) == sorted(single_listener.messages(ItemFailed))
    assert len(listener.messages(ItemFailed)) == 1
    assert len(listener.messages(Saved)) == 2
    assert [text[:5] for text in listener.messages(Progressed)] == [
        text[:5] for text in single_listener.messages(Progressed)
    ]


def test_processes_of_a_launcher_write_the_same_bytes_and_one_manifest(preprocessor, standard, tmp_path, monkeypatch):
    single, _, _ = standard
    label(with_nan(preprocessor.audio_dir / "broken.wav"), "a click")
    config = preprocessor.job(tmp_path / "shared", device="cpu")
    result, other = run_launched_job(preprocess_job, config, config.folder, monkeypatch)
    assert (result["ready"], result["made"], [each["item"] for each in result["failed"]]) == (2, 2, ["broken.wav"])
    assert other == {}
    assert tensors(config.out) == tensors(single)
    assert manifest(config.out)["sample_details"] == manifest(single)["sample_details"]


def test_processes_of_a_launcher_stop_together(preprocessor, tmp_path, monkeypatch):
    config = preprocessor.job(tmp_path / "shared", device="cpu")
    config.folder.mkdir(parents=True)
    JobFolder(config.folder).request_stop()
    ended = run_launched_job(preprocess_job, config, config.folder, monkeypatch)
    assert [type(problem) for problem in ended] == [JobCancelled, JobCancelled]
    assert not tensors(config.out)
