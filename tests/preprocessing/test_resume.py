"""Running again: what is up to date is left alone, what changed is made anew, what was interrupted goes on."""

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
from tests.preprocessing.conftest import Listener, Workshop, label, tensors


def stamps(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.pt")}


def file_of(out: Path, filename: str) -> str:
    found = {read_record(path).metadata["filename"]: path.name for path in out.glob("*.pt")}
    return found[filename]


@pytest.mark.parametrize("two_pass", [False, True])
def test_a_second_run_encodes_nothing_and_loads_no_model(encoded: Path, workshop: Workshop, two_pass: bool) -> None:
    before, listener = stamps(encoded), Listener()
    result = workshop.run(encoded, listener, two_pass=two_pass)
    assert stamps(encoded) == before
    assert (result["made"], result["up_to_date"], result["peak_model_bytes"]) == (0, 2, 0)
    assert "2 of 2 songs are up to date" in listener.said(LogMessage)
    assert len(read_manifest(encoded).paths) == 2


def test_a_changed_caption_redoes_that_song_only(encoded: Path, workshop: Workshop) -> None:
    before = stamps(encoded)
    label(workshop.songs / "one.wav", "a fast sine wave")
    result = workshop.run(encoded)
    changed = {name for name, stamp in stamps(encoded).items() if before[name] != stamp}
    assert changed == {file_of(encoded, "one.wav")}
    assert (result["made"], result["up_to_date"]) == (1, 1)
    assert "a fast sine wave" in read_record(encoded / changed.pop()).metadata["caption"]


def test_a_damaged_tensor_is_made_again_as_it_was(encoded: Path, workshop: Workshop) -> None:
    before, name = tensors(encoded), file_of(encoded, "one.wav")
    (encoded / name).write_bytes(before[name][:1000])
    assert workshop.run(encoded)["made"] == 1
    assert tensors(encoded) == before


def test_a_song_that_left_the_dataset_leaves_the_manifest_but_not_the_disk(encoded: Path, workshop: Workshop) -> None:
    gone, listener = file_of(encoded, "one.wav"), Listener()
    (workshop.songs / "one.wav").unlink()
    result = workshop.run(encoded, listener)
    assert result["unused_files"] == [gone]
    assert [path.name for path in read_manifest(encoded).paths] == [file_of(encoded, "two.flac")]
    assert (encoded / gone).is_file()
    assert any(gone in note and note.startswith("warning") for note in listener.said(LogMessage))


@pytest.mark.parametrize("two_pass", [False, True])
def test_a_stopped_run_keeps_whole_files_and_goes_on_to_the_same_result(
    encoded: Path, workshop: Workshop, tmp_path: Path, two_pass: bool
) -> None:
    out, stopped = tmp_path / "out", Listener(stop_when=lambda event: isinstance(event, Progressed))
    with pytest.raises(JobCancelled, match=f"{0 if two_pass else 1} of 2 songs are ready"):
        workshop.run(out, stopped, two_pass=two_pass)
    kept = list((out / "_tmp_pass1").glob("*.tmp.pt")) if two_pass else read_manifest(out).paths
    assert len(kept) == 1
    again = Listener()
    workshop.run(out, again, two_pass=two_pass)
    assert len(again.said(Progressed)) == (3 if two_pass else 1)
    assert tensors(out) == tensors(encoded)
    assert not (out / "_tmp_pass1").exists()


def test_an_intermediate_of_another_caption_is_not_used(workshop: Workshop, tmp_path: Path) -> None:
    out, stop = tmp_path / "out", Listener(stop_when=lambda event: isinstance(event, Progressed))
    with pytest.raises(JobCancelled):
        workshop.run(out, stop, two_pass=True)
    for audio, caption in (("one.wav", "new words"), ("sub/two.flac", "")):
        label(workshop.songs / audio, caption)
    workshop.run(out, two_pass=True)
    (path,) = read_manifest(out).paths
    assert "new words" in read_record(path).metadata["caption"]
    assert not (out / "_tmp_pass1").exists()


JOB = """
import sys
from pathlib import Path
import acestep.preprocessing.configs  # registers the job
from acestep.core.jobs import run_job
run_job(Path(sys.argv[1]))
"""


def test_a_killed_run_leaves_whole_files_and_the_next_one_completes_it(
    encoded: Path, workshop: Workshop, tmp_path: Path
) -> None:
    from acestep.core.jobs import run_job, write_job

    out = tmp_path / "out"
    write_job(out / "_job", "preprocess", workshop.job(out))
    process = subprocess.Popen([sys.executable, "-c", JOB, str(out / "_job")], cwd=PROJECT)
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
