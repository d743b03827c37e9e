import json

import pytest

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import fields
from acestep.core.errors import ConfigError
from acestep.training.configs import TrainingConfig
from acestep.training.interop import sidestep_keys as sidestep
from acestep.training.interop.sidestep import from_sidestep, is_sidestep, read_sidestep, to_sidestep, write_sidestep
from acestep.training.settings import apply_all, values_of

ALWAYS_TOLD = ("shift", "num_inference_steps")

# In the form of the presets that come with Side-Step (assets/presets, 2026).
SHORT = {
    "name": "mine",
    "description": "a try",
    "rank": 16,
    "alpha": 32,
    "dropout": 0.1,
    "target_modules_str": "q_proj k_proj v_proj o_proj",
    "attention_type": "both",
    "bias": "none",
    "learning_rate": 3e-4,
    "batch_size": 1,
    "gradient_accumulation": 4,
    "epochs": 10,
    "shift": 3.0,
    "num_inference_steps": 8,
    "optimizer_type": "adamw8bit",
    "cfg_ratio": 0.15,
    "log_heavy_every": 50,
    "gradient_checkpointing": True,
    "offload_encoder": True,
}


def configs():
    return {"training": TrainingConfig(), **{kind.name: kind.config() for kind in ADAPTERS}}


def reasons(**given):
    """The remarks on these keys in an otherwise plain preset."""
    remarks = from_sidestep({**SHORT, **given}).remarks
    return {remark.key: remark.reason for remark in remarks if remark.key not in ALWAYS_TOLD}


def settings(**given):
    return from_sidestep({**SHORT, **given}).settings


def test_an_imported_side_step_preset_changes_only_what_it_names():
    imported = from_sidestep(SHORT)
    target = configs()
    apply_all(imported.settings, target)
    training, lora = target["training"], target["lora"]
    assert (imported.name, imported.description) == ("mine", "a try")
    assert (lora.r, lora.alpha, training.learning_rate, training.max_epochs) == (16, 32, 3e-4, 10)
    assert (training.optimizer_type, training.gradient_accumulation_steps) == ("adamw8bit", 4)
    assert training.gradient_checkpointing == "on"
    assert training.warmup_steps == TrainingConfig().warmup_steps
    assert [remark.key for remark in imported.remarks] == list(ALWAYS_TOLD)


def test_there_are_69_keys_and_each_is_a_setting_or_has_a_reason():
    assert len(sidestep.KEYS) == 69
    owners = configs()
    for key, rule in sidestep.KEYS.items():
        if rule.setting:
            group, _, name = rule.setting.partition(".")
            assert name in fields(type(owners[group])), key
        else:
            assert rule.why or key in ("crop_mode", "chunk_duration"), key
            assert key not in fields(TrainingConfig), "this program has such a setting"


UNUSUAL = {
    "training.adapter_type": "lokr",
    "training.attention_type": "self",
    "training.train_mlp": True,
    "training.learning_rate": 2e-4,
    "training.max_epochs": 77,
    "training.batch_size": 3,
    "training.gradient_accumulation_steps": 5,
    "training.optimizer_type": "adafactor",
    "training.scheduler_type": "cosine_restarts",
    "training.max_latent_length": 750,
    "training.seed": 7,
    "training.save_every_n_epochs": 11,
    "training.early_stop_patience": 13,
    "training.auto_save_best_after": 17,
    "training.gradient_checkpointing": "on",
    "training.warmup_steps": 19,
    "training.weight_decay": 0.02,
    "training.max_grad_norm": 0.5,
    "training.cfg_dropout_prob": 0.25,
    "training.loss_weighting": "min_snr",
    "training.snr_gamma": 3.0,
    "training.ema_decay": 0.99,
    "training.max_steps": 23,
    "training.validation_percent": 29,
    "training.log_every_n_steps": 31,
    "lora.r": 37,
    "lora.alpha": 41,
    "lora.dropout": 0.3,
    "lokr.linear_dim": 43,
    "lokr.linear_alpha": 47.0,
    "lokr.factor": 8,
    "lokr.decompose_both": True,
    "lokr.use_tucker": True,
    "lokr.weight_decompose": True,
    "loha.r": 53,
    "loha.alpha": 59,
}


def test_the_round_trip_covers_every_shared_setting_with_a_non_default_value():
    assert set(UNUSUAL) == {rule.setting for rule in sidestep.KEYS.values() if rule.setting}
    usual = values_of(configs())
    assert not [key for key, value in UNUSUAL.items() if usual[key] == value]


def test_every_shared_setting_survives_a_round_trip(tmp_path):
    source, target = configs(), configs()
    apply_all(UNUSUAL, source)
    path, lost = write_sidestep(tmp_path / "mine", source, description="a try")
    imported = read_sidestep(path)
    apply_all(imported.settings, target)
    assert target == source
    assert (path.name, imported.name, imported.description, lost) == ("mine.json", "mine", "a try", [])
    assert [remark.key for remark in imported.remarks] == list(ALWAYS_TOLD)


def test_an_exported_side_step_preset_has_all_keys_and_the_values_in_use():
    content, _ = to_sidestep(configs(), name="mine", shift=1.0, num_inference_steps=50)
    assert list(content) == ["name", "description", *sidestep.KEYS]
    assert (content["learning_rate"], content["shift"], content["num_inference_steps"]) == (1e-4, 1.0, 50)
    assert (content["target_modules_str"], content["bias"], content["offload_encoder"]) == (
        "q_proj k_proj v_proj o_proj",
        "none",
        True,
    )
    assert (content["crop_mode"], content["max_latent_length"], content["log_heavy_every"]) == ("latent", 1500, 50)


def test_settings_that_side_step_lacks_are_listed():
    source = configs()
    given = {"training.max_steps": 5, "training.nan_detection_max": 3, "training.timestep_mu": -1.0, "lora.r": 2000}
    given |= {"training.learning_rate": 2.0, "training.adapter_type": "lokr", "lokr.dropout": 0.1}
    apply_all(given | {"lokr.linear_alpha": 0.4, "lora.use_rslora": True}, source)
    content, lost = to_sidestep(source, name="mine")
    assert {str(remark) for remark in lost} == {
        "lora.r = 2000: Side-Step takes at most 1024",
        "training.learning_rate = 2.0: Side-Step takes at most 1.0",
        "training.nan_detection_max = 3: Side-Step's presets have no such key",
        "training.timestep_mu = -1.0: Side-Step's presets have no such key",
        "lokr.dropout = 0.1: Side-Step's presets have no such key",
        "lokr.linear_alpha = 0.4: Side-Step takes whole numbers from 1",
    }
    assert (content["rank"], content["learning_rate"], content["lokr_linear_alpha"]) == (1024, 1.0, 1)


def test_dora_uses_the_keys_of_lora():
    source, target = configs(), configs()
    given = {"training.adapter_type": "dora", "training.learning_rate": 2e-4, "dora.r": 5, "dora.alpha": 6}
    apply_all(given | {"dora.dropout": 0.2, "training.gradient_checkpointing": "on"}, source)
    content, lost = to_sidestep(source, name="mine")
    assert (content["adapter_type"], content["use_dora"], content["rank"], content["alpha"]) == ("dora", True, 5, 6)
    apply_all(from_sidestep(content).settings, target)
    assert (target, lost) == (source, [])
    assert settings(use_dora=True)["training.adapter_type"] == "dora"
    assert settings(use_dora=True)["dora.r"] == 16


@pytest.mark.parametrize("optimizer", ["prodigy", "adamw"])
def test_an_empty_learning_rate_is_exported_as_the_value_in_use(optimizer):
    source = configs()
    apply_all({"training.optimizer_type": optimizer, "training.learning_rate": None}, source)
    content, _ = to_sidestep(source, name="mine")
    assert content["learning_rate"] == {"prodigy": 1.0, "adamw": 1e-4}[optimizer]


@pytest.mark.parametrize(
    ("given", "key", "part"),
    [
        ({"adapter_type": "oft"}, "adapter_type", "adapter type is not supported"),
        ({"adapter_type": "oft", "oft_coft": True}, "oft_coft", "adapter type is not supported"),
        ({"adapter_type": "loha", "loha_factor": 4}, "loha_factor", "variant of the adapter is not supported"),
        (
            {"adapter_type": "lokr", "lokr_use_scalar": True},
            "lokr_use_scalar",
            "variant of the adapter is not supported",
        ),
        ({"adapter_type": "oft", "use_dora": True}, "adapter_type", "adapter type is not supported"),
        ({"bias": "all"}, "bias", "never trained"),
        ({"target_modules_str": "q_proj v_proj"}, "target_modules_str", "attention_type"),
        ({"cross_target_modules_str": "q_proj"}, "cross_target_modules_str", "attention_type"),
        ({"scheduler_type": "custom"}, "scheduler_type", "never run"),
        ({"scheduler_formula": "1/step"}, "scheduler_formula", "never run"),
        ({"loss_weighting": "flow_snr"}, "loss_weighting", "must be 'none' or 'min_snr'"),
        ({"timestep_mode": "discrete"}, "timestep_mode", "continuous"),
        ({"dataset_repeats": 3}, "dataset_repeats", "every sample once"),
        ({"max_latent_length": 500, "chunk_decay_every": 5}, "chunk_decay_every", "positions are uniform"),
        ({"target_loss": 0.3}, "target_loss", "there is no loss target"),
        ({"target_loss": 0.3, "target_loss_warmup": 9}, "target_loss_warmup", "there is no loss target"),
        ({"gradient_checkpointing_ratio": 0.5}, "gradient_checkpointing_ratio", "all layers"),
        ({"offload_encoder": False}, "offload_encoder", "not loaded during training"),
        ({"ema_decay": 1}, "ema_decay", "above the maximum; set to 0.99999"),
        ({"adaptive_timestep_ratio": 0.5}, "adaptive_timestep_ratio", "distribution is fixed"),
        ({"warmup_start_factor": 0.2}, "warmup_start_factor", "0.1"),
        ({"cosine_eta_min_ratio": 0}, "cosine_eta_min_ratio", "0.01"),
        ({"cosine_restarts_count": 2}, "cosine_restarts_count", "quarter"),
        ({"save_best_every_n_steps": 50}, "save_best_every_n_steps", "between epochs"),
        ({"log_heavy_every": 10}, "log_heavy_every", "not logged"),
        ({"huber_delta": 0.1}, "huber_delta", "no such setting"),
        ({"max_grad_norm": 0}, "max_grad_norm", "greater than 0"),
        ({"learning_rate": "fast"}, "learning_rate", "valid number"),
        ({"learning_rate": float("nan")}, "learning_rate", "finite"),
        ({"batch_size": 512}, "batch_size", "above the maximum; set to 256"),
        ({"dropout": 0.9}, "dropout", "above the maximum; set to 0.5"),
        ({"epochs": 0}, "epochs", "below the minimum; set to 1"),
    ],
)
def test_values_that_cannot_be_imported_are_reported_with_the_reason(given, key, part):
    told = reasons(**given)
    assert part in told[key]
    assert key in given or key == "adapter_type"


def test_settings_without_effect_in_side_step_are_not_held_against_it():
    idle = {
        "adapter_type": "lora",
        "oft_eps": 1.0,
        "lokr_use_scalar": True,
        "target_loss_floor": 0.5,
        "target_loss": 0,
        "max_latent_length": 0,
        "chunk_decay_every": 3,
        "crop_mode": "full",
        "gradient_checkpointing": False,
        "gradient_checkpointing_ratio": 0.5,
        "attention_type": "self",
        "cross_target_modules_str": "q_proj",
        "scheduler_formula": " ",
        "self_target_modules_str": None,
    }
    assert reasons(**idle) == {}


@pytest.mark.parametrize(
    ("given", "key", "wanted"),
    [
        ({"rank": "64", "epochs": "12.0"}, "training.max_epochs", 12),
        ({"optimizer_type": "AdamW 8-bit"}, "training.optimizer_type", "adamw8bit"),
        ({"scheduler_type": "Cosine Restarts"}, "training.scheduler_type", "cosine_restarts"),
        ({"save_best": False, "save_best_after": 200}, "training.auto_save_best_after", 0),
        ({"save_best": True, "save_best_after": 0}, "training.auto_save_best_after", 1),
        ({"chunk_duration": 40}, "training.max_latent_length", 1000),
        ({"chunk_duration": 40, "max_latent_length": 300}, "training.max_latent_length", 300),
        ({"chunk_duration": 0}, "training.max_latent_length", 0),
        ({"gradient_checkpointing_ratio": 0}, "training.gradient_checkpointing", "off"),
        ({"val_split": 0.2}, "training.validation_percent", 20),
        ({"target_modules_str": f"{sidestep.ATTENTION} {sidestep.MLP}"}, "training.train_mlp", True),
        ({"batch_size": 512}, "training.batch_size", 256),
    ],
)
def test_values_are_read_for_what_they_mean(given, key, wanted):
    assert settings(**given)[key] == wanted


def test_an_unsupported_adapter_type_leaves_the_chosen_one():
    assert "training.adapter_type" not in settings(adapter_type="oft")


def test_nothing_in_a_preset_is_ever_evaluated(tmp_path):
    capture = tmp_path / "done"
    code = f"__import__('pathlib').Path({str(capture)!r}).touch()"
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**SHORT, "scheduler_type": "custom", "scheduler_formula": code}), encoding="utf-8")
    imported = read_sidestep(path)
    assert "training.scheduler_type" not in imported.settings
    assert {"scheduler_type", "scheduler_formula"} <= {remark.key for remark in imported.remarks}
    assert not capture.exists()


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (SHORT, True),
        ({"rank": 1, "alpha": 1, "epochs": 1}, True),
        ({"rank": 1, "alpha": 1}, False),
        ({"cfg_ratio": 0.1, "max_epochs": 1, "gradient_accumulation_steps": 1}, True),
        ({**SHORT, "schema_version": 1}, False),
        ({**SHORT, "ui_state": {}}, False),
        ({"r": 8, "lora_alpha": 16, "lora_dropout": 0.1}, False),
        ({"lora_r": 8, "lora_alpha": 16, "max_epochs": 10, "gradient_accumulation_steps": 4}, False),
        ([1], False),
    ],
)
def test_side_step_presets_are_recognized(data, wanted):
    assert is_sidestep(data) == wanted


def test_another_file_is_rejected(tmp_path):
    path = tmp_path / "profile.json"
    path.write_text('{"schema_version": 1, "ui_state": {}}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"profile\.json is not a preset of Side-Step"):
        read_sidestep(path)
    with pytest.raises(ConfigError, match="does not exist"):
        read_sidestep(tmp_path / "none.json")


def test_the_settings_of_a_run_are_read_with_the_adapters_file_beside_them(tmp_path):
    run = {
        "adapter_type": "lokr",
        "gradient_accumulation_steps": 2,
        "max_epochs": 33,
        "save_every_n_epochs": 3,
        "log_every_n_steps": 99,
        "log_every": 4,
        "cfg_ratio": 0.1,
        "offload_encoder": True,
        "timestep_mu": -0.5,
        "output_dir": "/home/me/run",
        "device": "cuda:0",
        "fisher_runs": None,
    }
    adapter = {"linear_dim": 32, "linear_alpha": 16, "factor": 4, "target_modules": ["q_proj"], "full_matrix": True}
    (tmp_path / "training_config.json").write_text(json.dumps(run), encoding="utf-8")
    (tmp_path / "sidestep_adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    imported = read_sidestep(tmp_path / "training_config.json")
    assert imported.settings == {
        "training.adapter_type": "lokr",
        "training.gradient_accumulation_steps": 2,
        "training.max_epochs": 33,
        "training.save_every_n_epochs": 3,
        "training.log_every_n_steps": 4,
        "training.cfg_dropout_prob": 0.1,
        "training.timestep_mu": -0.5,
        "lokr.linear_dim": 32,
        "lokr.linear_alpha": 16.0,
        "lokr.factor": 4,
    }
    assert {remark.key for remark in imported.remarks} == {"target_modules_str", "full_matrix"}
