"""Captioning with two processes, workers or those of a launcher, gives the same labels as with one."""

import json
import shutil

from acestep.captioning.configs import CaptionJob
from acestep.captioning.run import caption_job
from acestep.core.event_log import EventLog
from acestep.core.events import Finished, Progressed
from acestep.core.jobs import run_job, write_job
from tests.launched import run_launched_job


def labels(folder):
    return {path.name: json.loads(path.read_text().replace(str(folder), "")) for path in folder.rglob("*.json")}


def test_two_processes_label_each_song_once_and_write_one_table(songs, tmp_path):
    found = {}
    for devices in (1, 2):
        folder, run = tmp_path / f"songs {devices}", tmp_path / f"run {devices}"
        shutil.copytree(songs, folder)
        (folder / "truncated.wav").write_bytes((folder / "first.wav").read_bytes()[:3000])
        table = tmp_path / f"{devices}.csv"
        config = CaptionJob(audio_dir=folder, captioner="none", device="cpu", devices=devices, csv=table)
        write_job(run, "caption", config)
        last = run_job(run)
        assert isinstance(last, Finished), last
        events = EventLog(run / "events.jsonl").read()[0]
        counted = [(event.done, event.total) for event in events if isinstance(event, Progressed)]
        rows = table.read_text().replace(str(folder), "").splitlines()
        found[devices] = {**last.result, "csv": None}, labels(folder), counted, rows
    assert found[1] == found[2]
    result, _, counted, rows = found[2]
    assert (result["measured"], list(result["failed"])) == (3, ["truncated.wav"])
    assert (counted, len(rows)) == ([(1, 3), (2, 3), (3, 3)], 4)


def test_processes_of_a_launcher_label_each_song_once_and_write_one_table(songs, tmp_path, monkeypatch):
    (songs / "truncated.wav").write_bytes((songs / "first.wav").read_bytes()[:3000])
    config = CaptionJob(audio_dir=songs, captioner="none", device="cpu", csv=tmp_path / "table.csv")
    result, *others = run_launched_job(caption_job, config, tmp_path / "run", monkeypatch, world_size=4)
    assert (result["measured"], list(result["failed"])) == (3, ["truncated.wav"])
    assert others == [{}, {}, {}]
    assert len(labels(songs)) == 3
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 4
