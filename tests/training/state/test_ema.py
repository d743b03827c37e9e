"""The moving average of the weights: its values, its files, and that a resumed run has the same."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from acestep.core.errors import JobCancelled
from acestep.training.state.ema import ExponentialMovingAverage
from acestep.training.state.run_folder import RunFolder
from tests.training.runs import make_job, run, tensors_for

FILES = {"lora": "adapter_model.safetensors", "lokr": "lokr_weights.safetensors"}


@pytest.fixture(scope="module")
def tensors(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint, [(24, 5), (17, 7)])


@pytest.fixture
def job(tensors, tiny_checkpoint, tmp_path):
    def make(out="run", **settings):
        common = {"gradient_accumulation_steps": 1, "max_epochs": 3, "learning_rate": 0.02}
        return make_job(tensors, tiny_checkpoint, tmp_path / out, **{**common, **settings})

    return make


def test_the_ema_follows_the_weights_and_restores_them_exactly():
    weight = nn.Parameter(torch.zeros(3))
    average = ExponentialMovingAverage([weight], 0.5)
    wanted = torch.zeros(3)
    for step in range(20):
        with torch.no_grad():
            weight.add_(torch.tensor([1.0, 0.1, -2.0]))
        average.update()
        share = min(0.5, (1 + step) / (10 + step))
        wanted = share * wanted + (1 - share) * weight.detach()
    now = weight.detach().clone()
    with average.applied():
        assert torch.allclose(weight, wanted)
    assert torch.equal(weight, now)


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_adapter_and_ema_are_saved_and_the_ema_does_not_affect_training(kind, job):
    settings = {"adapter_type": kind, "auto_save_best_after": 0, "save_every_n_epochs": 2}
    plain, _ = run(job("plain", **settings))
    result, _ = run(job("averaged", ema_decay=0.9, **settings))
    assert (result["fit_loss"], result["steps"]) == (plain["fit_loss"], 6)
    assert result["fit_loss_ema"] not in (result["fit_loss"], result["fit_loss_before"])
    assert "fit_loss_ema" not in plain
    for place in ("final", "checkpoints/epoch_2", "checkpoints/epoch_3"):
        raw, unaveraged, averaged = (
            load_file(job(out).out / place / name / FILES[kind])
            for out, name in (("averaged", "adapter"), ("plain", "adapter"), ("averaged", "adapter_ema"))
        )
        assert raw.keys() == averaged.keys()
        assert all(torch.equal(raw[key], unaveraged[key]) for key in raw)
        assert any(not torch.equal(raw[key], averaged[key]) for key in raw)
    assert not (job("plain").out / "final" / "adapter_ema").exists()


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "adafactor", "prodigy"])
def test_a_stopped_run_ends_with_the_same_average(optimizer, job):
    settings = {"ema_decay": 0.9, "optimizer_type": optimizer, "auto_save_best_after": 0, "lora__dropout": 0.3}
    run(job("whole", **settings))
    asked = iter(range(1000))
    with pytest.raises(JobCancelled):
        run(job("stopped", **settings), stop_when=lambda: next(asked) >= 1 + 2 + 3)
    assert RunFolder(job("stopped").out).latest_checkpoint().name == "epoch_2_step_3"
    run(job("stopped", **settings, resume="auto"))
    for name in ("final/adapter_ema/adapter_model.safetensors", "checkpoints/epoch_3/state/state.safetensors"):
        whole, stopped = (job(out).out / name for out in ("whole", "stopped"))
        assert whole.read_bytes() == stopped.read_bytes()


def test_the_ema_can_be_enabled_and_disabled_in_a_resumed_run(job):
    run(job(max_epochs=1))
    result, _ = run(job(max_epochs=7, ema_decay=0.5, auto_save_best_after=1, resume="auto"))
    assert result["fit_loss_ema"] > 0
    assert {path.name for path in (job().out / "best").iterdir()} == {"adapter", "adapter_ema"}
    weights = [load_file(job().out / f / "adapter_ema" / FILES["lora"]) for f in ("best", "final")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    result, _ = run(job(max_epochs=8, auto_save_best_after=0, resume="auto"))
    assert "fit_loss_ema" not in result
