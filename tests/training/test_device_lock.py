"""Training and preprocessing keep the graphics card to themselves."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace

import pytest

from acestep.core.device_lock import lock_device
from acestep.core.errors import JobCancelled
from acestep.core.event_log import EventLog
from acestep.core.events import Waiting
from acestep.core.jobs import Context
from acestep.models.device import Selection
from acestep.models.process_group import SINGLE_PROCESS
from acestep.preprocessing import builder
from acestep.preprocessing.configs import PreprocessJob
from acestep.training import trainer
from acestep.training.configs import TrainJob
from acestep.training.evaluation import sensitivity as estimator

CARD = Selection("cuda", "as if there was one")


def train(context, monkeypatch):
    monkeypatch.setattr(trainer, "prepare", lambda *_: SimpleNamespace(device="cuda", processes=SINGLE_PROCESS))
    trainer.train_job(TrainJob(tensor_dir=context.folder, checkpoint="", out=context.folder, device="cpu"), context)


def preprocess(context, monkeypatch):
    monkeypatch.setattr(builder, "choose_device", lambda wanted: CARD)
    builder.preprocess_job(PreprocessJob(source=context.folder, checkpoint="tiny", out=context.folder), context)


def estimate(context, monkeypatch):
    monkeypatch.setattr(estimator, "choose_device", lambda wanted: CARD)
    names = ("find_checkpoint", "check_checkpoint", "read_manifest", "read_samples", "require_fit")
    for name in (*names, "with_silent_contexts"):
        monkeypatch.setattr(estimator, name, lambda *_: SimpleNamespace(name="tiny"))
    estimator.estimate_job(SimpleNamespace(checkpoint="", tensor_dir="", device="auto"), context)


@pytest.mark.parametrize("job", [train, preprocess, estimate])
def test_training_waits_for_a_gpu_in_use_before_it_loads_a_model(job, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "captioner").mkdir()
    (tmp_path / "job").mkdir()
    context = Context(tmp_path / "job")
    emit = Context.emit

    def stop_when_told(self, event):
        emit(self, event)
        if isinstance(event, Waiting):
            (self.folder / "cancel").touch()

    monkeypatch.setattr(Context, "emit", stop_when_told)
    with lock_device("cuda", "captioning", Context(tmp_path / "captioner")), pytest.raises(JobCancelled):
        job(context, monkeypatch)
    events, _ = EventLog(tmp_path / "job" / "events.jsonl").read()
    assert "captioning in" in str(events[-1])
