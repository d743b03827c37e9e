import json
import subprocess
import sys

import pytest

from acestep.core.config import fields, groups
from acestep.core.errors import ConfigError, TrainingError
from acestep.core.events import Cancelled, Finished
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import write_job
from acestep.training.configs import LoKRConfig, LoRAConfig, PreviewConfig, TrainingConfig, TrainJob
from acestep.training.parsing import resume_of_launched, set_value, train_job_from_flags
from acestep.training.state.run_folder import RunFolder


@pytest.fixture
def job(tmp_path):
    return TrainJob(tensor_dir=tmp_path, checkpoint="acestep-v15-turbo", out=tmp_path / "run")


def flags(tmp_path, **more):
    return {"tensor_dir": tmp_path, "checkpoint": "acestep-v15-turbo", "out": tmp_path / "run", "resume": None, **more}


def test_the_defaults_are_those_of_ace_lora_trainer():
    config = TrainingConfig()
    wanted = {
        "adapter_type": "lora",
        "batch_size": 1,
        "gradient_accumulation_steps": 4,
        "max_epochs": 100,
        "save_every_n_epochs": 10,
        "warmup_steps": 100,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "optimizer_type": "adamw",
        "scheduler_type": "cosine",
        "attention_type": "both",
        "train_mlp": False,
        "cfg_dropout_prob": 0.15,
        "max_latent_length": 1500,
        "auto_save_best_after": 200,
        "early_stop_patience": 0,
        "loss_weighting": "none",
        "snr_gamma": 5.0,
        "nan_detection_max": 10,
        "log_every_n_steps": 10,
        "seed": 42,
    }
    assert {name: getattr(config, name) for name in wanted} == wanted


def test_every_setting_has_a_label_and_a_help_text():
    for kind in (TrainingConfig, LoRAConfig, LoKRConfig, PreviewConfig, TrainJob):
        for name, field in fields(kind).items():
            assert field.title, name
            assert field.description or name in groups(TrainJob), name


@pytest.mark.parametrize(
    ("key", "value", "owner", "name", "wanted"),
    [
        ("max_epochs", "7", "training", "max_epochs", 7),
        ("training.max_epochs", "7", "training", "max_epochs", 7),
        ("lora.dropout", "0.25", "lora", "dropout", 0.25),
        ("lokr.dropout", "0.25", "lokr", "dropout", 0.25),
        ("r", "32", "lora", "r", 32),
        ("factor", "8", "lokr", "factor", 8),
        ("train_mlp", "true", "training", "train_mlp", True),
        ("train_mlp", False, "training", "train_mlp", False),
        ("learning_rate", "none", "training", "learning_rate", None),
        ("learning_rate", "3e-4", "training", "learning_rate", 3e-4),
        ("optimizer_type", "prodigy", "training", "optimizer_type", "prodigy"),
        ("seed", "5", "training", "seed", 5),
        ("samples.seed", "5", "samples", "seed", 5),
        ("samples.strengths", "0, 1.5", "samples", "strengths", "0, 1.5"),
    ],
)
def test_a_setting_is_found_by_its_name_and_read_from_text(job, key, value, owner, name, wanted):
    set_value(job, key, value)
    assert getattr(getattr(job, owner), name) == wanted


def test_a_plain_name_means_the_adapter_that_is_chosen(job):
    set_value(job, "dropout", "0.2")
    assert (job.lora.dropout, job.lokr.dropout) == (0.2, 0.0)
    set_value(job, "adapter_type", "lokr")
    set_value(job, "dropout", "0.3")
    assert (job.lora.dropout, job.lokr.dropout) == (0.2, 0.3)
    with pytest.raises(ConfigError, match="unknown setting 'r'"):
        set_value(job, "r", "8")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("max_epoch", "7", "unknown setting 'max_epoch'"),
        ("max_epochs", "many", "max_epochs"),
        ("max_epochs", "0", "max_epochs"),
        ("learning_rate", "nan", "learning_rate"),
        ("optimizer_type", "sgd", "adafactor"),
        ("checkpoint", "other", "unknown setting"),
        ("mixed_precision", "none", "mixed_precision"),
        ("samples.strengths", "1; 2", "numbers from 0 to 10"),
        ("samples.shift", "0.5", "0 or from 1 to 5"),
    ],
)
def test_an_invalid_setting_is_rejected_and_nothing_changes(job, key, value, message):
    before = job.model_dump()
    with pytest.raises(ConfigError, match=message):
        set_value(job, key, value)
    assert job.model_dump() == before


def test_a_job_is_made_from_flags_a_file_and_single_settings_in_this_order(tmp_path):
    file = tmp_path / "my.json"
    file.write_text(json.dumps({"_note": "mine", "max_epochs": 5, "seed": 1, "lora": {"r": 8}}), encoding="utf-8")
    job = train_job_from_flags(flags(tmp_path), file, ["max_epochs=9", "lora.alpha = 16"])
    assert (job.training.max_epochs, job.training.seed, job.lora.r, job.lora.alpha) == (9, 1, 8, 16)
    assert TrainJob.model_validate(json.loads(job.model_dump_json())) == job


def test_a_new_run_starts_from_a_preset_and_given_values_override_it(tmp_path):
    plain = train_job_from_flags(flags(tmp_path), None, [])
    assert (plain.training.auto_save_best_after, plain.training.gradient_checkpointing) == (50, "auto")
    small = train_job_from_flags(flags(tmp_path), None, ["adapter_type=lokr", "max_epochs=7"], "gpu_8gb")
    assert (small.training.adapter_type, small.training.max_epochs) == ("lokr", 7)
    assert (small.training.attention_type, small.training.auto_save_best_after) == ("self", 100)
    with pytest.raises(ConfigError, match="unknown preset 'recomended'"):
        train_job_from_flags(flags(tmp_path), None, [], "recomended")


def test_all_problems_of_a_command_line_are_reported_at_once(tmp_path):
    with pytest.raises(ConfigError) as error:
        train_job_from_flags(flags(tmp_path), None, ["epochs=3", "batch_size=-1", "nonsense"])
    text = str(error.value)
    assert "max_epochs" in text
    assert "batch_size" in text
    assert "'nonsense' must have the form key=value" in text


def test_a_command_line_rejects_the_folder_of_another_run(tmp_path):
    (tmp_path / "run" / "checkpoints" / "epoch_1").mkdir(parents=True)
    with pytest.raises(TrainingError, match="already holds a run"):
        train_job_from_flags(flags(tmp_path), None, [])
    assert train_job_from_flags(flags(tmp_path, resume="auto"), None, []).resume == "auto"


def test_a_resumed_run_keeps_its_settings_except_for_given_ones(tmp_path):
    first = train_job_from_flags(flags(tmp_path), None, ["r=8", "max_epochs=5", "gradient_checkpointing=false"])
    RunFolder(first.out).write_settings(first.model_dump(mode="json", include={"training", "lora", "lokr"}))
    job = train_job_from_flags(flags(tmp_path, resume="auto"), None, ["max_epochs=9"])
    assert (job.lora.r, job.training.max_epochs, job.training.gradient_checkpointing) == (8, 9, "off")
    job = train_job_from_flags(flags(tmp_path, resume="auto"), None, [], "vram_8gb")
    assert (job.lora.r, job.training.gradient_checkpointing) == (16, "auto")


def test_settings_are_read_without_importing_torch():
    code = "import sys, acestep.training.configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=False).returncode == 0


def test_the_same_command_of_a_launcher_resumes_its_unfinished_run(job, tmp_path):
    assert resume_of_launched(job) is None
    write_job(job.out, "train", job)
    assert resume_of_launched(job) == "auto"
    JobFolder(job.out).events.emit(Cancelled(message="stopped"))
    assert resume_of_launched(job) == "auto"
    assert resume_of_launched(job.model_copy(update={"checkpoint": "acestep-v15-base"})) is None
    JobFolder(job.out).events.emit(Finished(result={}))
    assert resume_of_launched(job) is None


def test_a_launcher_resumes_from_the_named_adapter_until_the_run_has_a_checkpoint(job, tmp_path):
    elsewhere = str(tmp_path / "other" / "adapter")
    job.resume = elsewhere
    write_job(job.out, "train", job)
    assert resume_of_launched(job) == elsewhere
    saved = job.out / "checkpoints" / "epoch_3"
    saved.mkdir(parents=True)
    assert resume_of_launched(job) == "auto"
    job.resume = str(saved)
    assert resume_of_launched(job) == str(saved)
