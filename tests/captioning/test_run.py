"""The captioning job with tiny local models and fake services: failures, cancellation and locked labels."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile

import numpy as np
import pytest
import soundfile

from acestep.captioning import api_keys
from acestep.captioning.backends import online_services
from acestep.captioning.configs import CaptionJob
from acestep.captioning.costs import cost_notes
from acestep.captioning.edits import save_edit
from acestep.captioning.labeling_plan import make_plan
from acestep.captioning.omni import OmniModel
from acestep.captioning.sidecar import USER
from acestep.cli import app as cli
from acestep.core.device_lock import lock_device, share_device
from acestep.core.errors import CaptionError
from acestep.core.event_log import EventLog
from acestep.core.events import (
    Cancelled,
    Failed,
    Finished,
    ItemFailed,
    LogMessage,
    Progressed,
    Saved,
    Started,
    Waiting,
)
from acestep.core.jobs import Context, run_job, write_job
from acestep.dataset.scan import scan_folder
from acestep.models.device import Selection
from tests.captioning.test_local import CAPTION, LYRICS, out_of_memory
from tests.fake_cloud import ANSWER, KEY, fake_cloud
from tests.fake_cloud import CAPTION as CLOUD_CAPTION

BOTH = {"captioner": "local", "transcriber": "local"}
MEASURE_ONLY = {"captioner": "none", "transcriber": "none"}


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setattr(api_keys, "_typed_keys", dict.fromkeys(online_services(), KEY))


@pytest.fixture
def job(songs, checkpoints, tmp_path):
    """Function that runs the job on the folder and returns its last event and all events."""
    runs = []

    def run(**settings):
        folder = tmp_path / f"run{len(runs)}"
        runs.append(folder)
        config = CaptionJob(
            audio_dir=songs, checkpoints=checkpoints, device="cpu", download=False, retries=0, **settings
        )
        write_job(folder, "caption", config)
        last = run_job(folder)
        return last, EventLog(folder / "events.jsonl").read()[0]

    return run


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def sample_of(songs, name):
    return next(s for s in scan_folder(songs).dataset.samples if s.filename == name)


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def test_a_folder_is_measured_captioned_and_transcribed_in_two_passes(job, songs, models_alive, monkeypatch):
    loaded = []
    load = OmniModel.load.__func__

    def recording_load(cls, folder, **settings):
        loaded.append((folder.name, models_alive()))
        return load(cls, folder, **settings)

    def recording_unload(self):
        loaded.append("unloaded")
        unload(self)

    unload = OmniModel.unload
    monkeypatch.setattr(OmniModel, "load", classmethod(recording_load))
    monkeypatch.setattr(OmniModel, "unload", recording_unload)
    last, events = job(**BOTH, custom_tag="mytag", csv=songs / "labels.csv")
    assert isinstance(last, Finished), last
    assert loaded == [("acestep-captioner", 0), "unloaded", ("acestep-transcriber", 0), "unloaded"]
    assert models_alive() == 0
    assert {key: last.result[key] for key in ("songs", "described", "measured", "transcribed", "failed")} == {
        "songs": 3, "described": 3, "measured": 3, "transcribed": 3, "failed": {}
    }  # fmt: skip
    labels = read(songs / "first.json")
    assert list(labels)[:12] == [
        "filename", "path", "caption", "bpm", "duration", "keyscale", "timesignature", "genre", "lyrics", "language",
        "is_instrumental", "custom_tag",
    ]  # fmt: skip
    assert labels["caption"] == CAPTION
    assert labels["lyrics"] == LYRICS
    assert (labels["filename"], labels["path"]) == ("first.wav", str(songs / "first.wav"))
    assert (labels["duration"], labels["language"], labels["is_instrumental"]) == (9, "en", False)
    assert labels["custom_tag"] == "mytag"
    assert labels["bpm"] == pytest.approx(120, abs=2)
    assert labels["sources"]["bpm"] == "measured"
    assert labels["sources"]["caption"] == "acestep-captioner"
    assert labels["measured"]["bpm_confidence"] > 0.1
    assert labels["answered"] == {
        "by": "acestep-captioner", "genre": "jazz", "bpm": None, "keyscale": "D Minor", "timesignature": "4"
    }  # fmt: skip
    assert any("key: measured E Minor" in message for message in last.result["disagreements"]["first.wav"])
    assert (songs / "first.caption.txt").read_text(encoding="utf-8") == CAPTION + "\n"
    assert (songs / "sub" / "third.lyrics.txt").read_text(encoding="utf-8") == LYRICS + "\n"
    notes = [event.note for event in of(Progressed, events)]
    assert [note.split(":")[0] for note in notes] == ["first.wav", "second.wav", "sub/third.wav"] * 2
    assert [event.done for event in of(Progressed, events)] == [1, 2, 3, 4, 5, 6]
    assert [(event.total, event.unit) for event in of(Started, events)] == [(6, "captions and lyrics")]
    assert {event.total for event in of(Progressed, events)} == {6}
    left_s = [event.seconds_left for event in of(Progressed, events)]
    assert left_s[-1] == 0 < min(left_s[:-1])
    rows = list(csv.DictReader((songs / "labels.csv").open(encoding="utf-8")))
    assert rows[0]["caption"] == CAPTION
    assert rows[0]["lyrics"] == LYRICS
    assert list(rows[0])[:5] == ["filename", "path", "caption", "bpm", "keyscale"]


def test_prefer_model_uses_the_key_of_the_model(job, songs):
    job(captioner="local", prefer="model")
    labels = read(songs / "first.json")
    assert (labels["keyscale"], labels["sources"]["keyscale"]) == ("D Minor", "acestep-captioner")
    assert labels["sources"]["bpm"] == "measured"


def test_finished_songs_are_skipped_and_missing_labels_are_added(job, songs):
    job(**BOTH)
    before = {path: path.read_bytes() for path in songs.rglob("*.*")}
    last, events = job(**BOTH)
    assert last.result["skipped"] == 3
    assert of(Progressed, events) == []
    assert {path: path.read_bytes() for path in songs.rglob("*.*")} == before
    for ending in (".json", ".caption.txt", ".lyrics.txt"):
        (songs / f"second{ending}").unlink()
    last, _ = job(**BOTH)
    assert (last.result["described"], last.result["transcribed"], last.result["skipped"]) == (1, 1, 2)
    assert read(songs / "second.json")["lyrics"] == LYRICS


def test_text_files_that_a_killed_job_did_not_write_are_written_next_time(job, songs):
    job(**BOTH)
    texts = {path: path.read_text() for path in songs.glob("*.*.txt")}
    assert texts
    for path in texts:
        path.unlink()
    last, _ = job(**BOTH)
    assert last.result["described"] == 0
    assert {path: path.read_text() for path in songs.glob("*.*.txt")} == texts


def test_measuring_only_loads_no_model_and_runs_once(job, songs, models_alive):
    last, _ = job(**MEASURE_ONLY)
    assert last.result["measured"] == 3
    assert "caption" not in read(songs / "second.json")
    assert read(songs / "second.json")["bpm"] == pytest.approx(124, abs=2)
    assert job(**MEASURE_ONLY)[0].result["skipped"] == 3
    last, _ = job(captioner="local")
    assert (last.result["described"], last.result["measured"]) == (3, 0)
    assert read(songs / "second.json")["bpm"] == pytest.approx(124, abs=2)


def test_a_failed_song_is_reported_and_skipped(job, songs):
    (songs / "broken.mp3").write_bytes(b"not a sound file at all")
    soundfile.write(songs / "silent.wav", np.zeros(48_000), 16_000)
    last, events = job(captioner="local")
    assert isinstance(last, Finished)
    assert set(last.result["failed"]) == {"broken.mp3", "silent.wav"}
    assert {event.item for event in of(ItemFailed, events)} == {"broken.mp3", "silent.wav"}
    assert "silent" in last.result["failed"]["silent.wav"]
    assert last.result["described"] == 3
    assert not (songs / "silent.json").exists()
    assert not (songs / "silent.caption.txt").exists()


def test_a_model_error_is_not_saved_and_the_song_is_retried_next_time(job, songs, monkeypatch):
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    generate, calls = Thinker.generate, []

    def sometimes(self, *args, **kwargs):
        calls.append(1)
        return out_of_memory() if len(calls) == 2 else generate(self, *args, **kwargs)

    monkeypatch.setattr(Thinker, "generate", sometimes)
    last, _ = job(captioner="local")
    assert isinstance(last, Finished)
    assert list(last.result["failed"]) == ["second.wav"]
    labels = read(songs / "second.json")  # measured labels are kept, the failed caption is missing
    assert "caption" not in labels
    assert labels["bpm"] == pytest.approx(124, abs=2)
    assert not (songs / "second.caption.txt").exists()
    assert not sample_of(songs, "second.wav").labeled
    last, _ = job(captioner="local")
    assert (last.result["described"], last.result["skipped"], last.result["failed"]) == (1, 2, {})


def test_an_unexpected_error_in_one_song_does_not_end_the_job(job, monkeypatch):
    from acestep.captioning import run

    analyse = run.analyse
    monkeypatch.setattr(run, "analyse", lambda audio, rate: 1 / 0 if len(audio) > 8.5 * rate else analyse(audio, rate))
    last, _ = job(**MEASURE_ONLY)
    assert isinstance(last, Finished)
    assert last.result["failed"] == {"first.wav": "division by zero"}
    assert last.result["measured"] == 2


def test_the_job_fails_if_every_song_fails(job, monkeypatch):
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    monkeypatch.setattr(Thinker, "generate", out_of_memory)
    last, _ = job(captioner="local", measure=False)
    assert isinstance(last, Failed)
    assert not last.is_bug
    assert "every song failed" in last.message


def test_the_job_waits_for_a_busy_gpu_and_can_share_it(job, songs, tmp_path, monkeypatch):
    from acestep.captioning import run

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(run, "choose_device", lambda wanted: Selection("cuda", "simulated"))
    emit = Context.emit

    def share_when_waiting(self, event):
        emit(self, event)
        if isinstance(event, Waiting):
            assert not (songs / "first.json").exists()
            share_device(self.folder)

    monkeypatch.setattr(Context, "emit", share_when_waiting)
    trainer = Context(tmp_path)
    with lock_device("cuda", "training", trainer):
        last, events = job(captioner="local")
        assert last.result["described"] == 3
        messages = [event.message for event in of(Waiting, events)]
        assert any(f"training in {tmp_path}" in message for message in messages)
        _, events = job(**MEASURE_ONLY, existing="redo")  # needs no GPU
        assert not of(Waiting, events)
    _, events = job(captioner="local", existing="redo")
    assert not of(Waiting, events)


def test_an_empty_folder_and_a_missing_model_are_reported(job, songs, tmp_path):
    last, _ = job(captioner="local", captioner_model="nobody/nothing")
    assert (last.error, last.is_bug) == ("CheckpointError", False)
    shutil.rmtree(songs)
    songs.mkdir()
    last, _ = job(captioner="local")
    assert last.error == "DatasetError"


def test_a_cancelled_job_keeps_its_labels_and_resumes(job, songs, models_alive, monkeypatch):
    emit = Context.emit

    def stop_after_first(self, event):
        emit(self, event)
        if isinstance(event, Saved):
            (self.folder / "cancel").touch()

    with monkeypatch.context() as patch:
        patch.setattr(Context, "emit", stop_after_first)
        last, _ = job(**BOTH)
    assert isinstance(last, Cancelled)
    assert models_alive() == 0
    assert read(songs / "first.json")["caption"] == CAPTION
    assert not (songs / "second.json").exists()
    last, _ = job(**BOTH)
    assert (last.result["described"], last.result["transcribed"]) == (2, 3)


def test_edited_labels_are_never_overwritten(job, songs):
    save_edit(sample_of(songs, "first.wav"), {"caption": "My own caption.", "keyscale": "G Minor"})
    job(**BOTH)
    job(**BOTH, existing="redo")
    labels = read(songs / "first.json")
    assert (labels["caption"], labels["keyscale"]) == ("My own caption.", "G Minor")
    assert labels["sources"]["caption"] == USER
    assert labels["lyrics"] == LYRICS
    assert (songs / "first.caption.txt").read_text(encoding="utf-8") == "My own caption.\n"


@pytest.fixture
def during_first_song(monkeypatch):
    """Function that runs an action once, while the model processes its first song."""

    def install(action):
        generate, pending = OmniModel.generate, [action]

        def patched(self, *args):
            if pending:
                pending.pop()()
            return generate(self, *args)

        monkeypatch.setattr(OmniModel, "generate", patched)

    return install


@pytest.mark.parametrize("existing", ["keep", "redo", "replace"])
def test_labels_edited_during_the_job_are_never_overwritten(job, songs, during_first_song, existing):
    if existing != "keep":
        job(**BOTH)
    if existing == "replace":
        save_edit(sample_of(songs, "first.wav"), {"caption": "Edited before."})
    edits = {"caption": "Edited during the job.", "keyscale": "G Minor", "lyrics": "[Verse]\nMine"}
    during_first_song(lambda: save_edit(sample_of(songs, "first.wav"), edits))
    last, events = job(**BOTH, existing=existing)
    labels = read(songs / "first.json")
    assert {name: labels[name] for name in edits} == edits
    assert {labels["sources"][name] for name in edits} == {USER}
    assert labels["bpm"] == pytest.approx(120, abs=2)
    assert (songs / "first.caption.txt").read_text(encoding="utf-8") == "Edited during the job.\n"
    assert (songs / "first.lyrics.txt").read_text(encoding="utf-8") == "[Verse]\nMine\n"
    assert (last.result["described"], last.result["transcribed"], last.result["failed"]) == (2, 2, {})
    assert sum("kept your own text" in event.note for event in of(Progressed, events)) == 2
    assert read(songs / "second.json")["caption"] == CAPTION


def test_files_edited_during_the_job_are_never_overwritten(job, songs, during_first_song):
    def edit_files():
        (songs / "first.caption.txt").write_text("From an editor.\n")
        (songs / "first.lyrics.txt").write_text("La la la\n")
        (songs / "second.json").write_text(json.dumps({"caption": "By hand", "bpm": 61, "is_instrumental": True}))

    during_first_song(edit_files)
    job(**BOTH)
    first, second = sample_of(songs, "first.wav"), read(songs / "second.json")
    assert (first.caption, first.lyrics, first.is_instrumental) == ("From an editor.", "La la la", False)
    assert (songs / "first.caption.txt").read_text() == "From an editor.\n"
    assert (songs / "first.lyrics.txt").read_text() == "La la la\n"
    assert first.bpm == pytest.approx(120, abs=2)
    assert (second["caption"], second["bpm"], second["is_instrumental"]) == ("By hand", 61, True)
    assert "lyrics" not in second


def test_edits_in_any_label_file_are_locked_and_survive_redo(job, songs):
    job(**BOTH)
    labels = read(songs / "first.json")
    (songs / "first.json").write_text(json.dumps({**labels, "caption": "Corrected in an editor."}))
    (songs / "second.caption.txt").write_text("Corrected in the text file.\n")
    (songs / "sub" / "third.txt").write_text("My lyrics\nof the third song\n")
    last, _ = job(**BOTH, existing="redo")
    assert last.result["described"] == 1
    assert read(songs / "first.json")["caption"] == "Corrected in an editor."
    assert read(songs / "second.json")["caption"] == "Corrected in the text file."
    assert read(songs / "second.json")["sources"]["caption"] == USER
    assert sample_of(songs, "second.wav").caption == "Corrected in the text file."


def test_labels_of_other_programs_are_locked(job, songs):
    (songs / "first.json").write_text('{"caption": "From elsewhere", "bpm": 99, "rating": 5}')
    (songs / "second.txt").write_text("La la la\nla la\n")
    (songs / "table.csv").write_text("File,Caption\nthird.wav,From a table\n")
    last, _ = job(**BOTH, existing="redo")
    first, second = read(songs / "first.json"), read(songs / "second.json")
    assert (first["caption"], first["bpm"], first["rating"]) == ("From elsewhere", 99, 5)
    assert first["lyrics"] == LYRICS
    assert "lyrics" not in second
    assert sample_of(songs, "second.wav").lyrics == "La la la\nla la"
    assert sample_of(songs, "third.wav").caption == "From a table"
    assert last.result["described"] == 1


def test_replace_overwrites_edited_labels_and_keeps_backups(job, songs):
    save_edit(sample_of(songs, "first.wav"), {"caption": "My own caption."})
    job(captioner="local", existing="replace")
    assert read(songs / "first.json")["caption"] == CAPTION
    assert read(songs / "first.json.bak")["caption"] == "My own caption."
    assert (songs / "first.caption.txt.bak").read_text(encoding="utf-8") == "My own caption.\n"


def test_a_song_marked_as_instrumental_is_not_transcribed(job, songs):
    save_edit(sample_of(songs, "first.wav"), {"is_instrumental": True})
    last, _ = job(captioner="none", measure=False, transcriber="local")
    assert last.result["transcribed"] == 2
    assert "lyrics" not in read(songs / "first.json")


def test_only_limits_the_job_to_the_listed_songs(job, songs):
    last, _ = job(captioner="local", only=["sub/third.wav"])
    assert last.result["songs"] == 1
    assert [path.name for path in songs.rglob("*.json")] == ["third.json"]
    last, _ = job(captioner="local", only=["gone.wav"])
    assert last.error == "DatasetError"


def test_songs_with_the_same_stem_have_separate_label_files(job, songs):
    soundfile.write(songs / "first.flac", *soundfile.read(songs / "second.wav"))
    job(**MEASURE_ONLY)
    assert read(songs / "first.wav.json")["bpm"] == pytest.approx(120, abs=2)
    assert read(songs / "first.flac.json")["bpm"] == pytest.approx(124, abs=2)
    assert not (songs / "first.json").exists()
    assert sample_of(songs, "first.flac").bpm == pytest.approx(124, abs=2)


def test_an_unreadable_label_file_is_reported_and_left_unchanged(job, songs):
    (songs / "first.json").write_text("{broken")
    last, _ = job(**MEASURE_ONLY)
    assert "first.json" in last.result["failed"]["first.wav"]
    assert (songs / "first.json").read_text() == "{broken"
    assert last.result["measured"] == 2


def test_gemini_returns_caption_and_lyrics_in_one_request(job, songs):
    with fake_cloud() as cloud:
        last, events = job(captioner="gemini", transcriber="gemini", gemini_url=cloud.url)
    assert isinstance(last, Finished), last
    assert len(cloud.requests) == 3
    labels = read(songs / "first.json")
    assert (labels["caption"], labels["lyrics"], labels["language"]) == (CLOUD_CAPTION, ANSWER["lyrics"], "en")
    assert labels["sources"]["lyrics"] == "gemini-flash-latest"
    assert of(Progressed, events)[-1].done == of(Progressed, events)[-1].total == 3
    assert any("USD" in event.message for event in of(LogMessage, events))
    assert KEY not in "".join(path.read_text() for path in songs.parent.rglob("*.json*"))


def test_a_song_that_fails_in_a_combined_request_is_not_sent_again(job):
    with fake_cloud("malformed") as cloud:
        last, events = job(captioner="gemini", transcriber="gemini", measure=False, gemini_url=cloud.url)
    assert list(last.result["failed"]) == ["first.wav"]
    assert len(cloud.requests) == 3
    assert [(event.done, event.total) for event in of(Progressed, events)] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("name", ["whisper", "elevenlabs"])
def test_lyrics_are_transcribed_by_a_service(job, songs, name):
    with fake_cloud("500") as cloud:
        urls = {"openai_url": f"{cloud.url}/v1", "elevenlabs_url": cloud.url}
        last, _ = job(captioner="none", measure=False, transcriber=name, **urls)
    assert last.result["transcribed"] == 2
    assert "500" in last.result["failed"]["first.wav"]
    assert "lyrics" not in (read(songs / "first.json") if (songs / "first.json").exists() else {})
    assert read(songs / "second.json")["lyrics"].startswith("[Verse]\nHold me now")


def test_a_wrong_key_ends_the_job_and_keeps_finished_songs(job, songs):
    with fake_cloud("ok", "401") as cloud:
        last, _ = job(captioner="gemini", measure=False, gemini_url=cloud.url)
        assert len(cloud.requests) == 2
    assert (last.error, last.is_bug) == ("ServiceRefused", False)
    assert read(songs / "first.json")["caption"] == CLOUD_CAPTION
    assert not (songs / "second.json").exists()


def test_an_error_message_in_place_of_a_caption_is_rejected(job, songs):
    with fake_cloud() as cloud:
        cloud.answer = {**ANSWER, "caption": "Error: out of memory"}
        last, _ = job(captioner="gemini", measure=False, gemini_url=cloud.url)
    assert last.error == CaptionError.__name__
    assert not (songs / "first.caption.txt").exists()


def test_the_cost_is_estimated_before_the_job(songs):
    config = CaptionJob(audio_dir=songs, captioner="gemini", transcriber="whisper")
    notes = cost_notes(make_plan(config), config)
    assert len(notes) == 2
    assert all("USD" in note for note in notes)


def command(*arguments):
    """Run ``python -m acestep caption`` in this process and return its exit code."""
    return cli.main(["caption", *map(str, arguments)])


def test_the_command_line_labels_a_folder(songs, checkpoints, capfd):
    models = ["--checkpoints", checkpoints, "--device", "cpu", "--no-download"]
    assert command(songs, *models, "--transcriber", "local", "--json") == 0
    out, err = capfd.readouterr()
    result = json.loads(out.splitlines()[-1])
    assert (result["ok"], result["described"], result["transcribed"]) == (True, 3, 3)
    assert "first.wav: A calm piece for piano" in err
    assert read(songs / "first.json")["caption"] == CAPTION
    assert scan_folder(songs).counts["labelled"] == 3


def test_the_command_line_accepts_a_backend_by_name(songs, capfd):
    with fake_cloud() as cloud:
        assert command(songs, "--backend", "whisper", "--no-measure", "--openai-url", f"{cloud.url}/v1") == 0
    assert "caption" not in read(songs / "first.json")
    assert read(songs / "first.json")["language"] == "en"
    assert command(songs, "--backend", "nobody") == 1
    assert command(songs / "nowhere") == 1
    assert "is not a folder" in capfd.readouterr().err
    assert not (songs / "nowhere").exists()
