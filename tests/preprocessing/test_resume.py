"""Preprocessing again: current samples are skipped, changed ones encoded again, interrupted jobs resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acestep.core.errors import JobCancelled
from acestep.core.events import Event, LogMessage, Progressed
from acestep.tensors.manifest import read_manifest
from acestep.tensors.record import read_record
from tests.bad_files import PROJECT
from tests.preprocessing.conftest import Listener, Preprocessor, label, tensors


def modified_times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.pt")}


def tensor_file_of(out: Path, filename: str) -> str:
    files = {read_record(path).metadata["filename"]: path.name for path in out.glob("*.pt")}
    return files[filename]


@pytest.mark.parametrize("two_pass", [False, True])
def test_a_second_run_encodes_nothing_and_loads_no_model(
    encoded: Path, preprocessor: Preprocessor, two_pass: bool
) -> None:
    before, listener = modified_times(encoded), Listener()
    result = preprocessor.run(encoded, listener, two_pass=two_pass)
    assert modified_times(encoded) == before
    assert (result["made"], result["up_to_date"], result["peak_model_bytes"]) == (0, 2, 0)
    assert "2 of 2 samples are up to date" in listener.messages(LogMessage)
    assert len(read_manifest(encoded).paths) == 2


def test_a_changed_caption_encodes_only_that_sample_again(encoded: Path, preprocessor: Preprocessor) -> None:
    before = modified_times(encoded)
    label(preprocessor.audio_dir / "one.wav", "a fast sine wave")
    result = preprocessor.run(encoded)
    changed = {name for name, modified in modified_times(encoded).items() if before[name] != modified}
    assert changed == {tensor_file_of(encoded, "one.wav")}
    assert (result["made"], result["up_to_date"]) == (1, 1)
    assert "a fast sine wave" in read_record(encoded / changed.pop()).metadata["caption"]


def test_a_damaged_tensor_file_is_encoded_again_with_the_same_bytes(encoded: Path, preprocessor: Preprocessor) -> None:
    before, name = tensors(encoded), tensor_file_of(encoded, "one.wav")
    (encoded / name).write_bytes(before[name][:1000])
    assert preprocessor.run(encoded)["made"] == 1
    assert tensors(encoded) == before


def test_a_removed_sample_leaves_the_manifest_and_keeps_its_file(encoded: Path, preprocessor: Preprocessor) -> None:
    removed, listener = tensor_file_of(encoded, "one.wav"), Listener()
    (preprocessor.audio_dir / "one.wav").unlink()
    result = preprocessor.run(encoded, listener)
    assert result["unused_files"] == [removed]
    assert [path.name for path in read_manifest(encoded).paths] == [tensor_file_of(encoded, "two.flac")]
    assert (encoded / removed).is_file()
    assert any(removed in message and message.startswith("warning") for message in listener.messages(LogMessage))


@pytest.mark.parametrize("two_pass", [False, True])
def test_a_cancelled_run_keeps_intact_files_and_resumes_to_the_same_result(
    encoded: Path, preprocessor: Preprocessor, tmp_path: Path, two_pass: bool
) -> None:
    out, stopped = tmp_path / "out", Listener(stop_when=lambda event: isinstance(event, Progressed))
    with pytest.raises(JobCancelled, match=f"{0 if two_pass else 1} of 2 samples are encoded"):
        preprocessor.run(out, stopped, two_pass=two_pass)
    kept = list((out / "_tmp_pass1").glob("*.tmp.pt")) if two_pass else read_manifest(out).paths
    assert len(kept) == 1
    resumed = Listener()
    preprocessor.run(out, resumed, two_pass=two_pass)
    assert len(resumed.messages(Progressed)) == (3 if two_pass else 1)
    assert tensors(out) == tensors(encoded)
    assert not (out / "_tmp_pass1").exists()


def test_an_intermediate_file_of_another_caption_is_not_used(preprocessor: Preprocessor, tmp_path: Path) -> None:
    out, stop = tmp_path / "out", Listener(stop_when=lambda event: isinstance(event, Progressed))
    with pytest.raises(JobCancelled):
        preprocessor.run(out, stop, two_pass=True)
    for audio, caption in (("one.wav", "new caption"), ("sub/two.flac", "")):
        label(preprocessor.audio_dir / audio, caption)
    preprocessor.run(out, two_pass=True)
    (path,) = read_manifest(out).paths
    assert "new caption" in read_record(path).metadata["caption"]
    assert not (out / "_tmp_pass1").exists()


JOB = """
import sys
from pathlib import Path
import acestep.preprocessing.configs  # registers the job
from acestep.core.jobs import run_job
run_job(Path(sys.argv[1]))
"""


def test_a_killed_run_leaves_intact_files_and_the_next_run_completes_it(
    encoded: Path, preprocessor: Preprocessor, tmp_path: Path
) -> None:
    from acestep.core.jobs import run_job, write_job

    out = tmp_path / "out"
    write_job(out / "_job", "preprocess", preprocessor.job(out))
    process = subprocess.Popen([sys.executable, "-c", JOB, str(out / "_job")], stdin=subprocess.DEVNULL, cwd=PROJECT)
    events = out / "_job" / "events.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (events.exists() and '"Saved"' in events.read_text()):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    listed = json.loads((out / "manifest.json").read_text())["samples"]
    assert 1 <= len(listed) <= len(tensors(out))
    for path in out.glob("*.pt"):
        assert path.read_bytes() == (encoded / path.name).read_bytes()
    last: Event = run_job(out / "_job")
    assert type(last).__name__ == "Finished", last
    assert tensors(out) == tensors(encoded)
    assert len(read_manifest(out).paths) == 2
