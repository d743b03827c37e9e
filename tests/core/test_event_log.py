"""Events and errors are written with explicit names, and files of earlier versions load."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from acestep.core.errors import AceStepError, JobCancelled, OutOfMemory, code_of, error_class
from acestep.core.event_log import TYPES, EventLog, decode, encode
from acestep.core.events import (
    Failed,
    Finished,
    LogMessage,
    Paused,
    Progressed,
    Resumed,
    Started,
    UnknownEvent,
    Waiting,
)
from acestep.ui.trainer.recovery import RESUME, recovery_for
from acestep.ui.watch import JobView

SAVED = Path(__file__).parent / "saved"
ERROR_CODES = (
    "AceStepError ConfigError UnknownName AudioError DatasetError CheckpointError TensorError ModelMismatch "
    "AdapterError TrainingError LossNotFinite DownloadError CaptionError ServiceError ServiceRefused StorageError "
    "DiskFull NotWritable MissingPackage JobError JobBusy JobCancelled WorkerCrashed"
)


def lines() -> list[dict[str, object]]:
    return [json.loads(line) for line in (SAVED / "events.jsonl").read_text().splitlines()]


def view(*events: dict[str, object]) -> JobView:
    view = JobView()
    for data in events:
        view.add(decode({"time_s": 1.0, **data}))
    return view


def test_events_are_written_with_the_names_and_keys_of_earlier_versions() -> None:
    old_messages = ("paused", "goes on after a pause")
    same = [data for data in lines() if data.get("message") not in old_messages]
    assert [encode(decode(data)) for data in same] == same
    assert {data["type"] for data in lines()} == TYPES.keys() - {"PhaseStarted", "Waiting", "Paused", "Resumed"}


def test_a_field_that_was_renamed_keeps_its_key() -> None:
    assert encode(Failed(error="KeyError", message="x", is_bug=True))["ours"] is True
    assert decode({"type": "Failed", "error": "KeyError", "message": "x", "ours": True}).is_bug  # type: ignore[attr-defined]


def test_every_event_is_read_as_it_was_written(tmp_path: Path) -> None:
    examples = {"str": "x", "int": 1, "float": 1.5, "bool": True}
    log, events = EventLog(tmp_path / "events.jsonl"), []
    for kind in TYPES.values():
        values = {field.name: examples.get(str(field.type)) for field in fields(kind)}
        values |= {field.name: {"a": 1} for field in fields(kind) if str(field.type).startswith("dict")}
        events.append(kind(**values))  # type: ignore[arg-type]
        log.emit(events[-1])
    assert log.read()[0] == events


def test_an_unknown_event_is_shown_by_its_name(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.path.write_text('{"type": "Shouted", "time_s": 2.0, "volume": 3}\n{"type": "Progressed"}\n[1]\n3\n{"type"\n')
    events, _ = log.read()
    assert events[0] == UnknownEvent(time_s=2.0, raw_type="Shouted", data={"volume": 3})
    assert isinstance(events[1], UnknownEvent)
    assert len(events) == 2
    assert "Shouted" in view({"type": "Shouted", "volume": 3}).lines[0]


def test_messages_of_earlier_versions_become_typed_events() -> None:
    note = {"type": "Noted", "time_s": 3.0, "warning": False}
    assert decode({**note, "message": "paused"}) == Paused(time_s=3.0)
    assert decode({**note, "message": "goes on after a pause"}) == Resumed(time_s=3.0)
    old = "waiting for the graphics card: training in /runs/a uses cuda. This goes on by itself when that is done."
    assert decode({**note, "message": old}) == Waiting(time_s=3.0, message=old)
    assert decode({**note, "message": "loading"}) == LogMessage(time_s=3.0, message="loading")


@pytest.mark.parametrize(
    "event",
    [
        {"type": "Noted", "message": "waiting for the graphics card: training in /a uses cuda.", "warning": False},
        {"type": "Waiting", "message": "any other sentence", "device": "cuda"},
    ],
)
def test_a_job_that_waits_for_a_device_is_recognized_until_it_continues(event: dict[str, object]) -> None:
    assert view(event).waiting
    assert view(event).phase == event["message"]
    assert not view(event, {"type": "Noted", "message": "cuda is free"}).waiting
    assert view(event, {"type": "Noted", "message": "shared", "warning": True}).waiting


@pytest.mark.parametrize("end", [{"type": "Resumed"}, {"type": "Noted", "message": "goes on after a pause"}])
def test_a_pause_does_not_count_for_the_speed(end: dict[str, object]) -> None:
    before = [{"type": "Progressed", "time_s": float(done), "done": done, "total": 9} for done in (1, 2, 3)]
    after = [{"type": "Progressed", "time_s": 100.0 + done, "done": done, "total": 9} for done in (4, 5)]
    assert view(*before, {**end, "time_s": 99.0}, *after).units_per_second == 1.0


@pytest.mark.parametrize(
    "failed",
    [
        {"error": "OutOfMemoryError", "message": "the device ran out of memory"},
        {"error": "MemoryError", "message": "the device ran out of memory"},
        {"error": "TrainingError", "message": "the device ran out of memory at step 5"},
        {"error": "WorkerCrashed", "message": "the device ran out of memory"},
        {"error": "OutOfMemory", "message": "any other sentence"},
    ],
)
def test_a_run_that_ran_out_of_memory_is_offered_less_memory(failed: dict[str, object]) -> None:
    last = view({"type": "Failed", **failed}).last
    assert isinstance(last, Failed)
    assert last.error == OutOfMemory.code
    recovery = recovery_for("failed", last)
    assert recovery is not None
    assert recovery.label == "Use less memory and resume"


def test_a_sentence_alone_does_not_offer_less_memory() -> None:
    assert recovery_for("failed", Failed(error="KeyError", message="torch is out of memory")) == RESUME


def test_the_page_shows_the_same_state_for_a_file_of_an_earlier_version() -> None:
    events = lines()
    shown = view(*events[:11])
    assert (shown.done, shown.total, shown.unit, shown.warnings) == (4, 8, "steps", [events[2]["message"]])
    assert [item.item for item in shown.skipped] == ["a.wav"]
    assert [saved.role for saved in shown.saved] == ["checkpoint"]
    assert view(*events).last == Finished(time_s=1700000013.0, result=events[-1]["result"])  # type: ignore[arg-type]


def test_error_codes_of_earlier_versions_map_to_their_classes() -> None:
    found = {code: error_class(code) for code in ERROR_CODES.split()}
    assert all(kind is not None and kind.code == code for code, kind in found.items())
    assert error_class("OutOfMemoryError") is error_class("MemoryError") is OutOfMemory
    assert error_class("KeyError") is None
    assert (code_of(JobCancelled("x")), code_of(KeyError("x"))) == ("JobCancelled", "KeyError")


def test_an_error_class_needs_its_own_code() -> None:
    with pytest.raises(TypeError, match="code"):
        type("Nameless", (AceStepError,), {})


def test_events_are_written_with_their_type_names(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.emit(Started(job="train", total=2, unit="steps"))
    log.emit(Progressed(done=1, total=2))
    assert [event.type_name for event in log.read()[0]] == ["Started", "Progressed"]


def test_messages_do_not_replace_the_phase() -> None:
    loading, message = {"type": "PhaseStarted", "phase": "Loading"}, {"type": "Noted", "message": "dtype float32"}
    assert view(loading, message).phase == "Loading"
    assert view(loading, {"type": "Progressed", "done": 1, "total": 2, "note": "a.wav"}).phase == "a.wav"
    assert view(loading, {"type": "Started", "job": "train", "total": 2, "unit": "steps"}).phase == ""


def test_messages_are_phases_in_logs_of_earlier_versions() -> None:
    assert view({"type": "Noted", "message": "loading"}).phase == "loading"
