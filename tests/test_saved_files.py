"""Files that an earlier version saved are read as they were, and the present version writes the same formats.

``tests/fixtures/saved_files`` is the result of ``dev/make_saved_files.py`` at an earlier version, and
``saved_files_decoded.json`` is what that version read from it. Neither is ever written again.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from acestep.__main__ import main  # registers every job
from acestep.core.event_log import EventLog
from acestep.core.events import Failed
from acestep.core.jobs import read_job, write_job
from acestep.dataset.store import read_dataset, write_dataset
from acestep.tensors.record import read_record
from acestep.training.interop.profiles import read_profile
from acestep.training.interop.sidestep import read_sidestep
from acestep.ui.captioner import config_file
from acestep.ui.settings import Settings
from dev import make_saved_files as script
from tests.fake_cloud import fake_cloud

SAVED = Path(__file__).parent / "fixtures" / "saved_files"
DECODED = json.loads((SAVED.parent / "saved_files_decoded.json").read_text("utf-8"))
FILES = sorted(path.relative_to(SAVED).as_posix() for path in SAVED.rglob("*") if path.is_file())
NEW_EVENTS = {"PhaseStarted"}  # added after the files were saved
NEW_KEYS = {  # likewise
    *("StepLogged.epochs", "StepLogged.steps", "Progressed.phase", ".components: str"),
    *(".automatic.base_precision: str", ".automatic.gradient_checkpointing: str"),
    ".state.compiled: bool",
}
NO_MESSAGES = ".merged.job"  # a merged model finds the VAE of its base model now, so the job has nothing to warn about
NEW_SETTINGS = {  # likewise, by group, with their defaults
    "config": {"audio_format": "wav"},
    "lokr": {"weight_decompose": False, "unbalanced_factorization": False},
    "training": {"max_validation_songs": 32, "compile": "auto"},
    "fixed": {"max_validation_songs": 32},  # of a training state
}
CACHE = "index.json"  # of the tensors; it leaves out files that have just been written
REMOVED_SETTINGS = {"num_nodes": 1}  # with the value that was saved
RESPELLED = {"gradient_checkpointing": {True: "on", False: "off"}}  # values that are written in another way now
# Earlier versions left the job folders of merge and prove beside their results.
WRITTEN = [name for name in FILES if not name.startswith((".merged.job/", ".proof.job/"))]
JOB_FOLDERS = sorted(path.parent.relative_to(SAVED).as_posix() for path in SAVED.rglob("job.json"))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, tiny_root: Path) -> Path:
    """The same files, written by the present version."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "checkpoints").symlink_to(tiny_root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("GEMINI_API_KEY", "")
        script.write_all(folder)
    script.keep_small(folder)
    return folder


@pytest.fixture
def disk(tmp_path: Path, tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the files of the earlier version and the model; the working directory."""
    folder = shutil.copytree(SAVED, tmp_path / "disk")
    (folder / "checkpoints").symlink_to(tiny_root)
    monkeypatch.chdir(folder)
    script.write_song(Path("songs/one.wav"), 2, seed=1)
    script.write_song(Path("songs/two.wav"), 1.5, seed=2)
    return folder


@pytest.fixture
def result(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command and returns the JSON object of its ``--json`` output."""

    def run(*arguments: str) -> Any:
        assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return run


def layout(path: Path) -> Any:
    """The structure of a file: keys and types of JSON, tensor names, shapes and metadata keys, columns."""
    match path.suffix:
        case ".json":
            return sorted({*keys(without_new_settings(json.loads(path.read_text("utf-8"))))} - NEW_KEYS)
        case ".jsonl":
            events = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            events = [event for event in events if event["type"] not in NEW_EVENTS]
            if path.parent.name == NO_MESSAGES:
                events = [event for event in events if event["type"] != "Noted"]
            return sorted({f"{event['type']}.{key}" for event in events for key in event} - NEW_KEYS)
        case ".safetensors":
            return tensors_of(path)
        case ".pt":
            record = read_record(path)
            shapes = {name: (list(tensor.shape), str(tensor.dtype)) for name, tensor in record.tensors().items()}
            return shapes, sorted(keys(record.metadata))
        case ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return next(csv.reader(file))
        case ".md":
            return path.read_text("utf-8").split("---")[1]
        case _:
            return path.read_text("utf-8")


def without_new_settings(data: Any) -> Any:
    """``data`` in the present spelling, without removed and added settings; the latter must have the defaults."""
    if isinstance(data, list):
        return [without_new_settings(item) for item in data]
    if not isinstance(data, dict):
        return data
    found = {key: without_new_settings(value) for key, value in data.items() if key not in REMOVED_SETTINGS}
    for key in found:
        spellings = RESPELLED.get(key.rpartition(".")[2], {})
        found[key] = spellings[found[key]] if spellings and isinstance(found[key], bool) else found[key]
    for group, defaults in NEW_SETTINGS.items():
        for name, default in defaults.items():
            for owner, key in ((found.get(group), name), (found, f"{group}.{name}")):
                if isinstance(owner, dict) and key in owner:
                    assert owner.pop(key) == default
    return found


def keys(data: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of all values with their types; the items of a list share a path."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from keys(value, f"{path}.{key}")
    elif isinstance(data, list):
        for value in data:
            yield from set(keys(value, f"{path}[]"))
    else:
        number = isinstance(data, int | float) and not isinstance(data, bool)
        yield f"{path}: {'number' if number else type(data).__name__}"


def tensors_of(path: Path) -> Any:
    """Shapes and dtypes by tensor name, and the keys of the metadata."""
    with safe_open(path, "pt") as file:
        shapes = {name: (file.get_slice(name).get_shape(), file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        return shapes, sorted(file.metadata() or {})


def dataset_values(path: Path, folder: Path) -> Any:
    """The content of a dataset file without the time when it was written, paths relative to ``folder``."""
    text = path.read_text("utf-8").replace(str(folder), "/home/user/music")
    content = json.loads(text)
    assert content["metadata"].pop("created_at")
    return content


def events_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


# Writing


def test_the_same_files_are_written(written: Path) -> None:
    found = [path for path in written.rglob("*") if path.is_file() and path.name != CACHE]
    assert sorted(path.relative_to(written).as_posix() for path in found) == WRITTEN


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_has_the_same_structure(name: str, written: Path) -> None:
    assert layout(written / name) == layout(SAVED / name)


def test_events_have_the_same_lines(written: Path) -> None:
    lines = (written / "events.jsonl").read_text("utf-8").splitlines()
    assert [line for line in (SAVED / "events.jsonl").read_text("utf-8").splitlines() if line not in lines] == []


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("jobs/")])
def test_a_file_has_the_same_content(name: str, written: Path) -> None:
    text = (written / name).read_text("utf-8")
    for defaults in NEW_SETTINGS.values():
        for setting, default in defaults.items():
            text = re.sub(rf'\n *"{setting}": {json.dumps(default)},', "", text)
    saved = (SAVED / name).read_text("utf-8")
    for setting, value in REMOVED_SETTINGS.items():
        saved = re.sub(rf'\n *"{setting}": {json.dumps(value)},', "", saved)
    for setting, spellings in RESPELLED.items():
        for old, new in spellings.items():
            saved = saved.replace(f'"{setting}": {json.dumps(old)}', f'"{setting}": "{new}"')
    assert text == saved


@pytest.mark.parametrize("name", ["page_values.json", "captioner_config.json", "sidestep.json"])
def test_a_settings_file_has_the_same_values(name: str, written: Path) -> None:
    assert json.loads((written / name).read_text("utf-8")) == json.loads((SAVED / name).read_text("utf-8"))


def test_a_dataset_has_the_same_values(written: Path) -> None:
    assert dataset_values(written / "small.json", written) == dataset_values(SAVED / "small.json", written)


# Reading


def test_events_are_read_and_written_unchanged(tmp_path: Path) -> None:
    events, _ = EventLog(SAVED / "events.jsonl").read()
    for event in events:
        EventLog(tmp_path / "events.jsonl").emit(event)
    assert (tmp_path / "events.jsonl").read_text("utf-8") == (SAVED / "events.jsonl").read_text("utf-8")


def test_failures_have_the_errors_that_were_saved() -> None:
    events, _ = EventLog(SAVED / "events.jsonl").read()
    saved = [event["error"] for event in events_in(SAVED / "events.jsonl") if event["type"] == "Failed"]
    assert [event.error for event in events if isinstance(event, Failed)] == saved
    assert len(saved) == 23


@pytest.mark.parametrize("folder", JOB_FOLDERS)
def test_a_job_is_read_with_all_its_settings(folder: str, tmp_path: Path) -> None:
    saved = json.loads((SAVED / folder / "job.json").read_text("utf-8"))
    name, config = read_job(SAVED / folder)
    found = {"job": name, "config": config.model_dump(mode="json")}
    assert without_new_settings(found) == without_new_settings({key: saved[key] for key in found})
    write_job(tmp_path, name, config)
    written = json.loads((tmp_path / "job.json").read_text("utf-8"))
    assert without_new_settings(written) == without_new_settings(saved)


def test_there_is_a_job_of_every_kind() -> None:
    kinds = {json.loads((SAVED / folder / "job.json").read_text("utf-8"))["job"] for folder in JOB_FOLDERS}
    assert kinds == set(script.JOBS_TO_WRITE)


def test_a_profile_gives_the_same_settings() -> None:
    profile = read_profile(SAVED / "profile.json")
    assert profile.remarks == []
    assert profile.dataset is not None
    assert [sample.filename for sample in profile.dataset.samples] == ["one.wav", "two.wav"]
    found = {"settings": profile.settings, "controls": profile.controls, "folder": profile.folder}
    assert found["settings"].pop("training.compile") is False  # it had no effect when the profile was saved
    assert found == DECODED["profile.json"]


def test_a_preset_of_sidestep_gives_the_same_settings() -> None:
    found = without_new_settings(read_sidestep(SAVED / "sidestep.json").settings)
    assert found == without_new_settings(DECODED["sidestep.json"])


def test_the_configuration_of_the_captioner_gives_the_same_values() -> None:
    assert config_file.read(SAVED / "captioner_config.json") == (DECODED["captioner_config.json"], [])


def test_values_of_a_page_are_read(tmp_path: Path) -> None:
    settings = Settings(Path(shutil.copy(SAVED / "page_values.json", tmp_path)))
    assert {key: settings.get(key) for key in script.PAGE_VALUES} == script.PAGE_VALUES


def test_a_tensor_file_is_read() -> None:
    expected = dict(DECODED["tensors/54942b3a.pt"])
    record = read_record(SAVED / "tensors/54942b3a.pt")
    assert record.metadata == expected.pop("metadata")
    for name, about in expected.items():
        tensor = getattr(record, name)
        assert list(tensor.shape) == about["shape"]
        assert float(tensor.double().mean()) == pytest.approx(about["mean"], rel=1e-9)


def test_a_dataset_is_read_and_written_unchanged(disk: Path) -> None:
    write_dataset(Path("again.json"), read_dataset(Path("small.json")))
    assert dataset_values(Path("again.json"), disk) == dataset_values(Path("small.json"), disk)


def test_labels_beside_the_audio_are_read(disk: Path, result: Any) -> None:
    result("scan", "songs", "--tag", "mytag", "--out", "again.json", "--name", "small")
    assert dataset_values(Path("again.json"), disk) == dataset_values(Path("small.json"), disk)


def test_captioned_songs_are_not_sent_again(disk: Path, result: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", script.KEY)
    with fake_cloud() as cloud:
        service = ["--captioner", "gemini", "--transcriber", "gemini", "--no-measure", "--gemini-url", cloud.url]
        result("caption", "songs", *service)
        assert cloud.requests == []


def test_tensors_are_up_to_date(disk: Path, result: Any) -> None:
    found = result("preprocess", "small.json", "--checkpoint", script.MODEL, "--out", script.TENSORS)
    assert (found["made"], found["up_to_date"]) == (0, 2)


def test_runs_are_listed(disk: Path, result: Any) -> None:
    runs = {Path(run["run"]).name: run for run in result("runs", "lora_output")["runs"]}
    assert sorted(runs) == ["dora", "loha", "lokr", "lora"]
    assert runs["lora"]["state"] == "done"
    assert (runs["lora"]["epoch"], runs["lora"]["step"]) == (6, 12)
    assert runs["lora"]["loss"] == pytest.approx(2.7675955)


def test_a_run_resumes_with_its_whole_state(disk: Path, result: Any) -> None:
    settings = ["adapter_type=lora", *script.COMMON, *script.ADAPTERS["lora"], *script.LONG_RUN]
    settings += ["max_epochs=7", "samples.enabled=false"]
    chosen = [argument for setting in settings for argument in ("--set", setting)]
    where = ["--checkpoint", script.MODEL, "--out", script.RUN, "--device", "cpu", "--resume", "auto"]
    found = result("train", script.TENSORS, *where, *chosen)
    events = events_in(Path(script.RUN) / "events.jsonl")
    steps = [event for event in events if event["type"] == "StepLogged"]
    assert [step["step"] for step in steps] == list(range(1, 15))
    assert [step["loss"] for step in steps[12:]] == pytest.approx([1.7812798, 1.3526609], rel=1e-4)
    assert [step["lr"] for step in steps[12:]] == pytest.approx([6.6699269e-4, 2.4383800e-4])
    assert found["fit_loss_before"] == pytest.approx(2.7641904, rel=1e-6)
    assert found["fit_loss_ema"] == pytest.approx(1.5255688, rel=1e-4)
    assert found["best"] == {"loss": pytest.approx(2.0562720, rel=1e-4), "epoch": 7}


@pytest.mark.parametrize("kind", script.ADAPTERS)
def test_an_adapter_is_read_and_exported(kind: str, disk: Path, result: Any) -> None:
    result("export", f"lora_output/{kind}", "--to", "acestep", "--out", "again", "--checkpoint", script.MODEL)
    (saved,) = Path(f"lora_output/{kind}/final/adapter").glob("*.safetensors")
    before, after = load_file(saved), load_file(Path("again") / saved.name)
    assert before.keys() == after.keys()
    assert all(bool((before[name] == after[name]).all()) for name in before)


def test_ranks_of_a_sensitivity_analysis_are_used(disk: Path, result: Any) -> None:
    ranks = json.loads(Path("tensors/_sensitivity/ranks.json").read_text("utf-8"))
    chosen = [argument for setting in ("max_epochs=1", "max_latent_length=20") for argument in ("--set", setting)]
    given = [
        "--checkpoint",
        script.MODEL,
        "--out",
        "new",
        "--device",
        "cpu",
        "--config",
        "tensors/_sensitivity/ranks.json",
    ]
    result("train", script.TENSORS, *given, *chosen)
    saved = json.loads(Path("new/training.json").read_text("utf-8"))["settings"]
    assert saved["lora"]["ranks"] == ranks["lora"]["ranks"] != {}


def test_a_merged_model_is_known_as_one_and_replaced(disk: Path, result: Any) -> None:
    assert os.listdir("merged") == ["merge.json"]
    result("merge", "--checkpoint", script.MODEL, "--adapter", script.RUN, "--out", "merged")
    assert (disk / "merged" / "config.json").is_file()
