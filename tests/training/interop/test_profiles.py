import json
import subprocess
import sys

import pytest

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config
from acestep.core.errors import ConfigError
from acestep.dataset.sample import Dataset, DatasetMetadata, Sample
from acestep.preprocessing.configs import PreprocessJob
from acestep.training.configs import PreviewConfig, TrainingConfig, TrainJob
from acestep.training.interop.profiles import CONTROLS, FIXED, SETTINGS, read_profile, write_profile

# What ace-lora-trainer saves, in its order, with its own defaults.
UI_STATE = {
    "custom_ckpt_dir": "",
    "checkpoint_dropdown": "acestep-v15-turbo",
    "split_input_dir": "",
    "split_output_dir": "",
    "split_duration": 30,
    "audio_directory": "/songs",
    "load_dataset_path": "",
    "dataset_name": "my_lora_dataset",
    "custom_tag": "ZX_Artist",
    "tag_position": "replace",
    "all_instrumental": True,
    "genre_ratio": 30,
    "skip_metas": False,
    "only_unlabeled": False,
    "save_path": "./datasets/my_lora_dataset.json",
    "preprocess_output_dir": "./datasets/preprocessed_tensors",
    "max_duration_slider": 240,
    "gpu_preset": "Custom",
    "training_tensor_dir": "./datasets/preprocessed_tensors",
    "adapter_type": "LoKr",
    "lora_rank": 32,
    "lora_alpha": 64,
    "lora_dropout": 0.15,
    "lokr_factor": 8,
    "lokr_linear_dim": 10000,
    "lokr_linear_alpha": 1.0,
    "lokr_decompose_both": True,
    "lokr_use_tucker": False,
    "lokr_dropout": 0.0,
    "learning_rate": 0.0003,
    "max_epochs": 500.0,
    "batch_size": 2,
    "gradient_accumulation": 4,
    "optimizer_type": "adamw8bit",
    "scheduler_type": "linear",
    "attention_type": "self",
    "model_type_radio": "turbo",
    "shift": 3.0,
    "seed": 7,
    "timestep_mu": -0.4,
    "timestep_sigma": 1.0,
    "cfg_dropout_prob": 0.2,
    "guidance_scale": 7.0,
    "num_inference_steps": 60,
    "save_every_n_epochs": 50,
    "early_stop_enabled": True,
    "early_stop_patience_val": 60,
    "auto_save_best_after": 100,
    "max_latent_length": 1000,
    "gradient_checkpointing_enabled": True,
    "encoder_offloading_enabled": True,
    "torch_compile_enabled": False,
    "lora_output_dir": "./lora_output",
    "sample_enabled": False,
    "sample_every_n": 0,
    "sample_prompt": "calm piano",
    "sample_lyrics": "",
    "sample_bpm": 120,
    "sample_key": "",
    "sample_time_sig": "4",
    "sample_duration": 30,
    "sample_strengths": "0.5, 1.0, 1.5",
    "sample_inf_steps": 0,
    "sample_guidance": 0,
    "sample_shift": 0,
    "sample_seed": 42,
    "loss_weighting": "min_snr",
    "snr_gamma": 4.0,
    "nan_detection_max": 5,
    "audio_norm_dropdown": "lufs",
    "resume_enabled": True,
    "resume_dir": "./lora_output/mine",
    "resume_checkpoint_dropdown": "epoch_300",
    "estimate_tensor_dir": "",
    "estimate_batches": 10,
    "estimate_granularity": "layer",
    "estimate_top_k": 20,
    "export_path": "./checkpoints/my_custom_lora",
    "merge_base_model": "acestep-v15-turbo",
    "merge_lora_dir": "./lora_output",
    "merge_checkpoint_dropdown": "final",
    "merge_output_dir": "",
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "profiles" / "mine.json"


def save(path, state, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"schema_version": 1, "saved_at": 1.5, "workflow_state": {}, "ui_state": state, "dataset_state": None}
    path.write_text(json.dumps({**content, **more}), encoding="utf-8")
    return path


def state_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["ui_state"]


def configs(tmp_path):
    job = TrainJob(tensor_dir=tmp_path / "tensors", checkpoint="acestep-v15-base", out=tmp_path / "run")
    preprocess = PreprocessJob(source=tmp_path / "songs", checkpoint="acestep-v15-base", out=tmp_path / "tensors")
    return {
        "job": job,
        "training": TrainingConfig(),
        **{kind.name: kind.config() for kind in ADAPTERS},
        "preprocess": preprocess,
        "samples": PreviewConfig(),
    }


def test_every_key_of_ace_lora_trainer_is_handled():
    pairs = {"early_stop_enabled", "early_stop_patience_val"}
    pairs |= {"resume_enabled", "resume_dir", "resume_checkpoint_dropdown"}
    assert len(UI_STATE) == 82
    assert set(UI_STATE) == {*SETTINGS, *CONTROLS, *FIXED, *pairs}


def test_a_profile_of_ace_lora_trainer_fills_the_configs(path, tmp_path):
    target = configs(tmp_path)
    profile = read_profile(save(path, UI_STATE))
    assert profile.apply(target) == []
    assert profile.remarks == []
    training, job = target["training"], target["job"]
    assert (training.adapter_type, training.optimizer_type, training.attention_type) == ("lokr", "adamw8bit", "self")
    assert (training.max_epochs, training.early_stop_patience, training.gradient_accumulation_steps) == (500, 60, 4)
    assert (training.gradient_checkpointing, training.loss_weighting, training.timestep_mu) == ("on", "min_snr", -0.4)
    assert (target["lora"].r, target["lora"].dropout, target["lokr"].factor) == (32, 0.15, 8)
    assert target["lokr"].decompose_both
    assert (job.checkpoint, job.resume) == ("acestep-v15-turbo", "lora_output/mine/checkpoints/epoch_300")
    assert (target["preprocess"].normalize, target["preprocess"].max_duration_s) == ("lufs", 240)
    assert (target["samples"].prompt, profile.controls["custom_tag"]) == ("calm piano", "ZX_Artist")
    assert profile.dataset is None


def test_settings_that_a_profile_lacks_are_unchanged(path, tmp_path):
    target = configs(tmp_path)
    target["training"].batch_size = 3
    before = target["training"].model_dump()
    read_profile(save(path, {"max_epochs": 12, "batch_size": None})).apply(target)
    assert target["training"].model_dump() == {**before, "max_epochs": 12}


def test_unknown_keys_and_invalid_values_are_reported_and_the_others_used(path, tmp_path):
    state = {
        "max_epochs": 12,
        "new_thing": 1,
        "batch_size": 999,
        "optimizer_type": "sgd",
        "scheduler_type": "Cosine Restarts",
        "encoder_offloading_enabled": False,
        "training.unheard_of": 1,
        "samples.every": 2,
    }
    target = configs(tmp_path)
    profile = read_profile(save(path, state))
    told = {remark.key: remark.reason for remark in [*profile.remarks, *profile.apply(target)]}
    training = target["training"]
    assert (training.max_epochs, training.batch_size, training.optimizer_type) == (12, 256, "adamw")
    assert training.scheduler_type == "cosine_restarts"
    assert set(told) == set(state) - {"max_epochs", "scheduler_type", "batch_size", "optimizer_type"} | {
        "training.batch_size",
        "training.optimizer_type",
    }
    assert told["encoder_offloading_enabled"] == "the encoders are not loaded during training"
    assert "set to 256" in told["training.batch_size"]


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ({"early_stop_enabled": False, "early_stop_patience_val": 80}, 0),
        ({"early_stop_enabled": True, "early_stop_patience_val": 80}, 80),
        ({"early_stop_enabled": True}, 5),
        ({"early_stop_patience_val": 80}, 5),
    ],
)
def test_patience_counts_only_where_early_stopping_is_on(path, tmp_path, state, wanted):
    target = configs(tmp_path)
    target["training"].early_stop_patience = 5
    read_profile(save(path, state)).apply(target)
    assert target["training"].early_stop_patience == wanted


@pytest.mark.parametrize(
    ("resume", "enabled", "choice"),
    [
        (None, False, None),
        ("auto", True, None),
        ("old/run", True, None),
        ("old/run/final", True, "final"),
        ("old/run/best", True, "best"),
        ("old/run/checkpoints/epoch_7", True, "epoch_7"),
    ],
)
def test_the_resume_choice_uses_the_keys_of_ace_lora_trainer(path, tmp_path, resume, enabled, choice):
    source, target = configs(tmp_path), configs(tmp_path)
    source["job"].resume, target["job"].resume = resume, "something else"
    write_profile(path, source)
    state = state_of(path)
    assert (state["resume_enabled"], state["resume_checkpoint_dropdown"]) == (enabled, choice)
    assert state["resume_dir"] == ("old/run" if resume and "old" in resume else str(tmp_path / "run"))
    read_profile(path).apply(target)
    assert target["job"].resume == resume
    ours = {key: value for key, value in state.items() if "." not in key}
    if resume != "auto":  # ace-lora-trainer knows no such choice
        read_profile(save(path, ours)).apply(target)
        assert target["job"].resume == resume


def other_value(config, name):
    """Something that the field takes and that is not its value now."""
    now = getattr(config, name)
    tries = [now / 2 if isinstance(now, int | float) and not isinstance(now, bool) else None, 3, 0.25, True, False]
    for value in [
        *tries,
        {"up_proj": 4},
        "pissa",
        "fsdp",
        "lokr",
        "self",
        "prodigy",
        "cosine_restarts",
        "min_snr",
        "fp32",
        "nf4",
        "lufs",
        "append",
        "cpu",
        "0.25, 3",
    ]:
        trial = config.model_copy()
        try:
            setattr(trial, name, value)
        except ValueError:
            continue
        if getattr(trial, name) != now:
            return getattr(trial, name)
    raise AssertionError(f"no other value for {name}")


def test_every_setting_survives_in_a_profile_of_ours(path, tmp_path):
    source, target = configs(tmp_path), configs(tmp_path)
    for config in source.values():
        for name in type(config).model_fields:
            if not isinstance(getattr(config, name), Config):
                setattr(config, name, other_value(config, name))
    write_profile(path, source)
    profile = read_profile(path)
    assert profile.apply(target) == []
    assert profile.remarks == []
    assert target == source


def test_empty_settings_stay_empty_and_ace_lora_trainer_gets_its_defaults(path, tmp_path):
    source, target = configs(tmp_path), configs(tmp_path)
    target["training"].learning_rate = target["training"].timestep_mu = 0.5
    write_profile(path, source)
    state = state_of(path)
    assert (state["learning_rate"], state["timestep_mu"], state["timestep_sigma"]) == (1e-4, -0.4, 1.0)
    read_profile(path).apply(target)
    assert (target["training"].learning_rate, target["training"].timestep_mu) == (None, None)


def test_ace_lora_trainer_gets_only_choices_that_it_has(path, tmp_path):
    source = configs(tmp_path)
    source["training"].adapter_type, source["training"].scheduler_type = "lokr", "cosine_restarts"
    write_profile(path, source)
    state = state_of(path)
    assert (state["adapter_type"], state["scheduler_type"]) == ("LoKr", "cosine")
    assert (state["early_stop_enabled"], state["early_stop_patience_val"]) == (False, 80)
    assert (state["encoder_offloading_enabled"], state["torch_compile_enabled"]) == (True, False)
    assert {key for key in state if "." not in key} <= set(UI_STATE)


def test_page_values_and_dataset_are_restored(path, tmp_path):
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "a.wav").touch()
    samples = [Sample(id="a1", audio_path="a.wav", filename="a.wav", caption="calm", labeled=True, bpm=120)]
    dataset = Dataset(metadata=DatasetMetadata(name="mine", custom_tag="ZX"), samples=samples)
    controls = {"save_path": "piano \u2669", "gpu_preset": "Custom"}
    write_profile(path, configs(tmp_path), controls=controls, dataset=dataset, folder=str(tmp_path / "songs"))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["schema_version"], content["dataset_state"]["_current_dir"]) == (1, str(tmp_path / "songs"))
    assert content["workflow_state"] == {
        "service_ready": False,
        "dataset_loaded": True,
        "dataset_labeled": True,
        "tensors_ready": False,
        "training_complete": False,
    }
    profile = read_profile(path)
    assert (profile.controls, profile.folder) == (controls, str(tmp_path / "songs"))
    assert (profile.dataset.metadata.custom_tag, profile.dataset.metadata.num_samples) == ("ZX", 1)
    assert (profile.dataset.samples[0].caption, profile.dataset.samples[0].bpm) == ("calm", 120)
    assert profile.dataset.samples[0].audio_path == str(tmp_path / "songs" / "a.wav")


def test_a_dataset_that_cannot_be_read_leaves_the_settings_usable(path, tmp_path):
    broken = {"metadata": {"genre_ratio": 900}, "samples": [{"filename": "a.wav"}], "_current_dir": "/songs"}
    profile = read_profile(save(path, {"max_epochs": 12}, dataset_state=broken))
    target = configs(tmp_path)
    profile.apply(target)
    assert target["training"].max_epochs == 12
    assert profile.dataset is None
    assert "genre_ratio" in profile.remarks[0].reason


def test_no_key_of_a_service_is_carried_into_a_profile(path, tmp_path):
    profile = read_profile(save(path, {**UI_STATE, "openai_api_key": "sk-1234567890", "preset.token": "hf_123456789"}))
    assert {remark.key for remark in profile.remarks} == {"openai_api_key", "preset.token"}
    write_profile(path, configs(tmp_path), controls=profile.controls)
    text = path.read_text(encoding="utf-8")
    assert "sk-1234567890" not in text
    assert "hf_123456789" not in text
    with pytest.raises(AssertionError):
        write_profile(path, configs(tmp_path), controls={"openai_api_key": "sk-1234567890"})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is not a profile"),
        ('{"rank": 1, "alpha": 2, "epochs": 3}', "is not a profile"),
        ('{"schema_version": 2, "ui_state": {}}', "has version 2"),
        ("{", "not valid JSON"),
    ],
)
def test_a_file_that_is_not_a_profile_is_rejected_with_its_path(path, content, message):
    save(path, {}).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        read_profile(path)
    assert "mine.json" in str(error.value)
    assert error.value.hint


def test_malformed_content_is_reported(path, tmp_path):
    odd = {**dict.fromkeys(UI_STATE, [1, {"a": None}]), "dataset_name": None}
    profile = read_profile(save(path, odd, dataset_state=[1], workflow_state=None))
    target = configs(tmp_path)
    before = {group: config.model_copy() for group, config in target.items()}
    told = {remark.key for remark in profile.apply(target)}
    assert told == {*SETTINGS.values(), "training.early_stop_patience", "job.resume"}
    assert target == before


def test_profiles_and_presets_are_read_without_importing_torch():
    code = (
        "import sys, acestep.training.interop.profiles, acestep.training.interop.sidestep\n"
        "from acestep.training import presets\n"
        "presets.load_preset('recommended'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, check=False).returncode == 0
