"""Whole runs in this process, on the tiny checkpoint."""

import math

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from acestep.adapters.files import read_metadata
from acestep.core.errors import (
    AdapterError,
    CheckpointError,
    DiskFull,
    LossNotFinite,
    ModelMismatch,
    OutOfMemory,
    TensorError,
)
from acestep.core.events import EpochLogged, ItemFailed, LogMessage, Saved, StepLogged
from acestep.models.checkpoint import find_checkpoint
from acestep.models.dit import AceStepDiT
from acestep.training import session as session_module
from acestep.training.state import checkpoint as checkpoint_module
from acestep.training.state.run_folder import RunFolder
from tests.training.runs import LENGTHS, make_job, of_kind, run, tensors_for


@pytest.fixture(scope="module")
def tensors(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("tensors"), tiny_checkpoint)


@pytest.fixture
def job(tensors, tiny_checkpoint, tmp_path):
    def make(out="run", **settings):
        return make_job(tensors, tiny_checkpoint, tmp_path / out, **settings)

    return make


def told(events):
    return [event.message for event in of_kind(events, LogMessage)]


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_a_run_learns_and_writes_all_documented_files(kind, tiny_checkpoint, tmp_path):
    tensors = tensors_for(tmp_path, tiny_checkpoint, [*LENGTHS, (20, 6), (22, 5)])
    settings = {"adapter_type": kind, "attention_type": "both", "max_epochs": 30, "learning_rate": 2e-2}
    settings |= {"auto_save_best_after": 5, "save_every_n_epochs": 12, "measure_every_n_epochs": 10}
    settings |= {"lokr.linear_dim": 10000, "batch_size": 2, "gradient_accumulation_steps": 1}
    job = make_job(tensors, tiny_checkpoint, tmp_path / "run", **settings)
    result, events = run(job)
    assert result["fit_loss"] < 0.9 * min(result["fit_loss_before"], result["zero_loss"])
    assert (result["epochs"], result["steps"], result["songs"], len(result["held_out"])) == (30, 90, 6, 1)
    assert math.isfinite(result["validation_loss"])
    assert result["best"]["epoch"] > 5
    folder = RunFolder(job.out)
    assert [path.name for path in folder.saved()] == ["epoch_12", "epoch_24", "epoch_30"]
    assert result["adapter"] == str(job.out / "final" / "adapter")
    weights = {"lora": "adapter_model.safetensors", "lokr": "lokr_weights.safetensors"}[kind]
    final, best = ((folder.root / name / "adapter" / weights).read_bytes() for name in ("final", "best"))
    assert final == best
    tensors = load_file(folder.final / "adapter" / weights)
    assert {value.dtype for key, value in tensors.items() if not key.endswith(".alpha")} == {torch.bfloat16}
    measured = [event.epoch for event in of_kind(events, EpochLogged) if event.fit_loss is not None]
    assert measured == [10, 20]
    assert [event.role for event in of_kind(events, Saved)][-1] == "final"
    assert len(of_kind(events, EpochLogged)) == 30


def test_the_adapter_file_records_its_dataset_and_settings(job):
    result, _ = run(job())
    card = read_metadata(job().out / "final")
    assert (card.trigger_word, card.tag_position) == ("zyxtag", "append")
    assert (card.family, card.variant, card.kind) == ("2b", "turbo", "lora")
    assert (card.steps, card.epochs) == (result["steps"], result["epochs"]) == (12, 4)
    assert (card.attention_type, card.train_mlp) == ("cross", False)
    assert card.config["alpha"] == 8
    assert card.facts["learning_rate"] == 1e-2
    assert card.facts["songs"] == 5
    assert card.dataset_hash


def test_the_logs_contain_losses_learning_rate_and_metrics(job):
    run(job(measure_every_n_epochs=2))
    logs = EventAccumulator(str(job().out / "logs" / "version_0")).Reload()
    steps = {tag: [event.step for event in logs.Scalars(tag)] for tag in logs.Tags()["scalars"]}
    assert steps["train/loss"] == steps["train/lr"] == list(range(1, 13))
    assert steps["train/epoch_loss"] == [3, 6, 9, 12]
    assert steps["fit_loss"] == [0, 6, 12]


def test_two_runs_in_one_process_are_equal_and_leave_no_state(job):
    before = torch.get_rng_state()
    one, first = run(job("one", cfg_dropout_prob=0.5))
    other, second = run(job("two", cfg_dropout_prob=0.5))
    assert torch.equal(torch.get_rng_state(), before)
    assert [e.loss for e in of_kind(first, StepLogged)] == [e.loss for e in of_kind(second, StepLogged)]
    files = [job(name).out / "final" / "adapter" / "adapter_model.safetensors" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert all(key.startswith("base_model.model.layers.") for key in load_file(files[1]))
    assert {k: v for k, v in one.items() if k != "adapter"} == {k: v for k, v in other.items() if k != "adapter"}


def test_the_batch_size_affects_only_speed(job):
    losses = []
    for batch, accumulation in ((4, 1), (1, 4), (2, 2)):
        settings = {"batch_size": batch, "gradient_accumulation_steps": accumulation, "lora__dropout": 0.0}
        _, events = run(job(f"{batch}", **settings))
        losses.append([event.loss for event in of_kind(events, StepLogged)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)


def test_the_learning_rate_warms_up_over_a_tenth_and_decays_to_the_last_step(job):
    _, events = run(job(max_epochs=10))
    rates = [event.lr for event in of_kind(events, StepLogged)]
    assert len(rates) == 30
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == rates[3] == pytest.approx(1e-2)
    assert rates[-1] < 2e-4
    assert all(one > other for one, other in zip(rates[3:], rates[4:], strict=False))


@pytest.mark.parametrize(
    ("optimizer", "schedule"),
    [("adamw8bit", "cosine_restarts"), ("adafactor", "constant_with_warmup"), ("prodigy", "linear")],
)
def test_every_optimizer_trains_the_true_decoder(job, optimizer, schedule):
    settings = {"optimizer_type": optimizer, "scheduler_type": schedule, "learning_rate": "none", "max_steps": 3}
    result, events = run(job(**settings))
    assert result["steps"] == 3
    assert all(math.isfinite(event.grad_norm) for event in of_kind(events, StepLogged))
    if optimizer == "prodigy":
        assert [event.lr for event in of_kind(events, StepLogged)] == [0.1, 1.0, 1.0]


def test_overridden_settings_are_reported(job):
    settings = {"optimizer_type": "prodigy", "batch_size": 9, "max_steps": 1, "lokr__use_tucker": True}
    _, events = run(job(adapter_type="lokr", learning_rate=1e-4, **settings))
    text = "\n".join(told(events))
    assert "Batch size 9 exceeds the dataset: using 5" in text
    assert "adapts its own learning rate: using constant" in text
    assert "adapts its own learning rate: using 1.0" in text
    assert "use_tucker has no effect" in text


def test_it_stops_early_when_the_mean_no_longer_falls_even_without_saving_the_best(job):
    still = {"learning_rate": 1e-7, "early_stop_patience": 2, "auto_save_best_after": 0, "max_epochs": 50}
    result, _ = run(job(**still))
    assert result["stopped_early"]
    assert 7 <= result["epochs"] < 50
    assert not RunFolder(job().out).best.exists()
    assert (RunFolder(job().out).checkpoints / f"epoch_{result['epochs']}").is_dir()


def test_gradient_checkpointing_recomputes_layers_and_changes_nothing(job, tiny_checkpoint, monkeypatch):
    calls = []
    original = AceStepDiT.enable_gradient_checkpointing

    def enable(self):
        original(self)
        true = self._gradient_checkpointing_func
        self._gradient_checkpointing_func = lambda *arguments: calls.append(1) or true(*arguments)

    monkeypatch.setattr(AceStepDiT, "enable_gradient_checkpointing", enable)
    losses = []
    for on in (False, True):
        _, events = run(job(f"{on}", gradient_checkpointing=on, max_steps=4))
        losses.append([event.loss for event in of_kind(events, StepLogged)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(calls) == find_checkpoint(tiny_checkpoint).config["num_hidden_layers"] * 7  # the songs of four steps


def test_bf16_keeps_the_adapter_in_fp32_and_learns(job):
    result, _ = run(job(mixed_precision="bf16", max_epochs=12))
    assert result["fit_loss"] < result["fit_loss_before"]
    state = load_file(RunFolder(job().out).latest_checkpoint() / "state" / "state.safetensors")
    assert {value.dtype for key, value in state.items() if key.startswith("adapter.")} == {torch.float32}
    assert {value.dtype for key, value in state.items() if "exp_avg" in key} == {torch.float32}


def test_a_broken_sample_is_reported_and_the_others_are_trained(tiny_checkpoint, tmp_path):
    tensors = tensors_for(tmp_path, tiny_checkpoint)
    (tensors / "song 1.pt").write_bytes(b"not a tensor file")
    result, events = run(make_job(tensors, tiny_checkpoint, tmp_path / "run"))
    assert result["songs"] == 4
    assert [event.item for event in of_kind(events, ItemFailed)] == ["song 1.pt"]


def test_no_usable_song_is_an_error(tiny_checkpoint, tmp_path):
    with pytest.raises(TensorError):
        run(make_job(tmp_path, tiny_checkpoint, tmp_path / "run"))
    (tmp_path / "song.pt").write_bytes(b"not a tensor file")
    with pytest.raises(TensorError, match="none of the 1 files"):
        run(make_job(tmp_path, tiny_checkpoint, tmp_path / "run"))
    assert not RunFolder(tmp_path / "run").occupied


def test_cheap_checks_come_before_the_model_is_loaded(job, tmp_path, tiny_checkpoint, monkeypatch):
    def never(*_arguments, **_settings):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(session_module, "load_dit", never)
    foreign = tensors_for(tmp_path, tiny_checkpoint)
    record = torch.load(foreign / "song 0.pt", weights_only=True)
    record["metadata"]["encoder_fingerprint"] = "of another model"
    torch.save(record, foreign / "song 0.pt")
    with pytest.raises(ModelMismatch):
        run(make_job(foreign, tiny_checkpoint, tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"checkpoint .* not found"):
        run(make_job(foreign, tmp_path / "missing", tmp_path / "run"))
    with pytest.raises(AdapterError):
        run(job(resume=str(foreign)))
    monkeypatch.setattr("acestep.training.prepare.LEAST_SPACE", 2**60)
    with pytest.raises(DiskFull):
        run(job())


def test_a_disk_too_small_for_checkpoints_is_rejected_before_the_first_step(job, monkeypatch):
    asked = []

    def require_space(folder, num_bytes):
        asked.append(num_bytes)
        raise DiskFull("too small")

    monkeypatch.setattr(checkpoint_module, "require_space", require_space)
    with pytest.raises(DiskFull):
        run(job())
    checkpoints = 3
    assert asked[0] > checkpoints * 12 * 4 * 64  # state and moments of the adapter
    assert not RunFolder(job().out).occupied


def test_a_full_disk_leaves_the_last_checkpoint_and_names_it(job, monkeypatch):
    calls = []

    def require_space(folder, num_bytes):
        calls.append(num_bytes)
        if len(calls) > 2:
            raise DiskFull("no room", hint="Free some space.")

    monkeypatch.setattr(checkpoint_module, "require_space", require_space)
    with pytest.raises(DiskFull, match="no room") as error:
        run(job(save_every_n_epochs=1))
    [saved] = RunFolder(job().out).saved()
    assert saved.name == "epoch_1"
    assert f"Last saved checkpoint: {saved}." in error.value.hint


def test_an_interruption_during_an_optimizer_step_saves_nothing_inconsistent(job, monkeypatch):
    original = torch.optim.AdamW.step
    steps = []

    def step(self, *arguments):
        steps.append(1)
        if len(steps) == 5:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(KeyboardInterrupt):
        run(job(save_every_n_steps=2))
    assert [path.name for path in RunFolder(job().out).saved()] == ["epoch_1_step_2", "epoch_2_step_4"]
    result, events = run(job(save_every_n_steps=2, resume="auto"))
    assert result["steps"] == 12
    assert of_kind(events, StepLogged)[0].step == 5


def test_an_xl_model_is_trained_on_its_narrower_conditions(tiny_root, tmp_path):
    checkpoint = tiny_root / "acestep-v15-tiny-xl-base"
    tensors = tensors_for(tmp_path / "tensors", checkpoint)
    result, _ = run(make_job(tensors, checkpoint, tmp_path / "run", max_steps=2, cfg_dropout_prob=0.5))
    card = read_metadata(tmp_path / "run" / "final")
    assert result["steps"] == 2
    assert (card.family, card.variant) == ("xl", "base")


def test_a_run_with_only_nan_losses_saves_its_last_good_state_and_names_it(job, monkeypatch):
    class Spoilt(session_module.FlowMatching):
        count = 0

        def forward(self, batch):
            losses = super().forward(batch)
            Spoilt.count += self.training
            return losses * math.nan if Spoilt.count > 6 else losses

    monkeypatch.setattr(session_module, "FlowMatching", Spoilt)
    with pytest.raises(LossNotFinite, match="4 times in a row") as error:
        run(job(nan_detection_max=3))
    saved = RunFolder(job().out).latest_checkpoint()
    assert saved.name == "epoch_2_step_4"
    assert str(saved) in error.value.hint
    weights = load_file(saved / "state" / "state.safetensors")
    assert all(torch.isfinite(value.float()).all() for value in weights.values())


def test_an_evaluation_that_is_not_finite_is_reported_with_the_dtype(job, monkeypatch):
    class Spoilt(session_module.FlowMatching):
        def forward(self, batch):
            losses = super().forward(batch)
            return losses if self.training else losses * math.nan

    monkeypatch.setattr(session_module, "FlowMatching", Spoilt)
    _, events = run(job(max_epochs=1))
    warnings = [event.message for event in of_kind(events, LogMessage) if event.warning]
    assert any("not finite, computed in float32" in message for message in warnings)


def test_a_checkpoint_is_saved_before_an_error_is_raised(job, monkeypatch):
    class Broken(session_module.FlowMatching):
        def forward(self, batch):
            Broken.count += self.training
            if Broken.count == 8:
                raise Broken.problem
            return super().forward(batch)

    monkeypatch.setattr(session_module, "FlowMatching", Broken)
    Broken.count, Broken.problem = 0, ZeroDivisionError("ours")
    with pytest.raises(ZeroDivisionError):
        run(job("fault"))
    assert RunFolder(job("fault").out).latest_checkpoint().name == "epoch_2_step_4"
    Broken.count, Broken.problem = 0, torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(OutOfMemory, match="out of memory at step 5") as error:
        run(job("memory"))
    assert "gradient_checkpointing" in error.value.hint
    assert RunFolder(job("memory").out).latest_checkpoint().name == "epoch_2_step_4"
