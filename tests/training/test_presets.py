import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from acestep.adapters.configs import ADAPTERS, LoHaConfig
from acestep.cli.app import main
from acestep.core.config import fields
from acestep.core.errors import ConfigError, UnknownName
from acestep.training.configs import (
    LoKRConfig,
    LoRAConfig,
    TrainingConfig,
    TrainJob,
    apply_preset,
    auto_select_preset,
    list_presets,
    load_preset,
)
from acestep.training.parsing import train_job_from_flags
from acestep.training.presets import gpu_presets, preset_for_memory, read_preset, recommend_epochs
from acestep.training.settings import NOT_HERE
from acestep.training.state.run_folder import RunFolder
from tests.training.runs import make_job, run, tensors_for

SEVEN = ["high_quality", "quick_test", "recommended", "vram_12gb", "vram_16gb", "vram_24gb_plus", "vram_8gb"]

# Where the best would have been looked for after the last epoch, half of the epochs.
COLUMNS = (
    "optimizer_type learning_rate batch_size gradient_accumulation_steps max_epochs save_every_n_epochs warmup_steps "
    "gradient_checkpointing max_latent_length lora_r lora_alpha lora_dropout loss_weighting auto_save_best_after"
)
TABLE = {
    "recommended": ("adamw", 1e-4, 1, 4, 100, 10, 100, "auto", 1500, 64, 128, 0.1, "none", 50),
    "vram_8gb": ("adamw8bit", 1e-4, 1, 8, 100, 25, 50, "auto", 750, 16, 32, 0.1, "none", 50),
    "vram_12gb": ("adamw8bit", 1e-4, 1, 4, 100, 20, 100, "auto", 1500, 32, 64, 0.1, "none", 50),
    "vram_16gb": ("adamw", 1e-4, 1, 4, 100, 10, 100, "auto", 1500, 64, 128, 0.1, "none", 50),
    "vram_24gb_plus": ("adamw", 1e-4, 2, 2, 100, 10, 100, "auto", 1500, 128, 256, 0.1, "none", 50),
    "quick_test": ("adamw", 1e-4, 1, 1, 10, 5, 10, "auto", 750, 16, 32, 0.0, "none", 0),
    "high_quality": ("adamw", 5e-5, 1, 4, 1000, 250, 200, "auto", 1500, 128, 256, 0.05, "min_snr", 200),
}
COMMON = {
    "adapter_type": "lora",
    "attention_type": "both",
    "scheduler_type": "cosine",
    "max_grad_norm": 1.0,
    "cfg_dropout_prob": 0.15,
}

# Prodigy finds its own rate and wants it constant, and the guide's batch for LoKr on 16-24 GB.
GPU_COLUMNS = (
    "lora_r lora_alpha learning_rate max_epochs batch_size gradient_accumulation_steps optimizer_type scheduler_type "
    "attention_type gradient_checkpointing early_stop_patience auto_save_best_after save_every_n_epochs "
    "max_latent_length"
)
GPU_TABLE = {
    ("RTX 4090 / 5090 (24GB+)", "lora"): (64, 128, None, 800, 3, 1, "prodigy", "constant", "both", "auto", 80, 200),
    ("RTX 4090 / 5090 (24GB+)", "lokr"): (64, 128, 3e-4, 500, 2, 4, "adamw", "cosine", "both", "auto", 50, 100),
    ("RTX 3090 / 4080 (16-24GB)", "lora"): (64, 128, None, 800, 2, 2, "prodigy", "constant", "both", "auto", 80, 200),
    ("RTX 3090 / 4080 (16-24GB)", "lokr"): (64, 128, 3e-4, 500, 2, 4, "adamw", "cosine", "both", "auto", 50, 100),
    ("RTX 3080 / 4070 (10-12GB)", "lora"): (32, 64, 1e-4, 1000, 1, 4, "adamw8bit", "cosine", "both", "auto", 80, 200),
    ("RTX 3080 / 4070 (10-12GB)", "lokr"): (32, 64, 3e-4, 500, 1, 8, "adamw", "cosine", "both", "auto", 50, 100),
    ("RTX 3060 / 4060 (8GB)", "lora"): (
        *(16, 32, 1e-4, 1000, 1, 4, "adafactor", "constant_with_warmup", "self", "auto", 80, 200),
    ),
    ("RTX 3060 / 4060 (8GB)", "lokr"): (
        *(16, 32, 1e-4, 500, 1, 4, "adafactor", "constant_with_warmup", "self", "auto", 50, 100),
    ),
}
ALL_PRESETS = [*SEVEN, *gpu_presets().values()]
VARIANTS = {"weight_decompose", "unbalanced_factorization"}  # chosen by the user; presets leave them alone
EVERY = [(name, adapter) for name in ALL_PRESETS for adapter in ("lora", "lokr", "loha")]


def test_the_seven_presets_are_listed():
    assert list_presets() == SEVEN


@pytest.mark.parametrize("name", SEVEN)
def test_a_general_preset_has_the_documented_values(name):
    values = load_preset(name)
    assert values.items() >= {**dict(zip(COLUMNS.split(), TABLE[name], strict=True)), **COMMON}.items()
    assert values["early_stop_patience"] == (200 if name == "high_quality" else 0)
    assert values.get("snr_gamma", 5.0) == 5.0


def test_gpu_presets_are_listed_by_page_label_largest_first():
    assert list(gpu_presets()) == list(dict.fromkeys(label for label, _ in GPU_TABLE))


@pytest.mark.parametrize(("label", "adapter"), GPU_TABLE)
def test_a_gpu_preset_has_the_documented_values(label, adapter):
    values = load_preset(gpu_presets()[label], adapter)
    crop = 1000 if "(8GB)" in label else 1500
    wanted = dict(zip(GPU_COLUMNS.split(), (*GPU_TABLE[label, adapter], 50, crop), strict=True))
    wanted["adapter_type"] = adapter
    if adapter == "lora":
        wanted["lora_dropout"] = 0.1
    else:
        wanted |= {f"lokr_{name}": value for name, value in LoKRConfig().model_dump(exclude=VARIANTS).items()}
    assert values == wanted


@pytest.mark.parametrize(("name", "adapter"), EVERY)
def test_no_preset_defeats_itself(name, adapter):
    values = load_preset(name, adapter)
    assert values["auto_save_best_after"] <= values["max_epochs"] / 2
    assert 0 < values["save_every_n_epochs"] <= values["max_epochs"]
    if values["optimizer_type"] == "prodigy":
        assert (values["learning_rate"], values["scheduler_type"]) == (None, "constant")


def applied(name, adapter, *before):
    """The configurations after these presets, one after the other."""
    training, lora, lokr, loha = TrainingConfig(), LoRAConfig(), LoKRConfig(), LoHaConfig()
    for preset in (*before, name):
        training.adapter_type = adapter
        apply_preset(training, lora, preset, lokr, loha)
    return training, lora, lokr, loha


@pytest.mark.parametrize(("name", "adapter"), EVERY)
def test_what_a_preset_names_does_not_depend_on_the_preset_before(name, adapter):
    named = load_preset(name, adapter)
    for before in [(), ("high_quality",), ("gpu_8gb",)]:
        training, *adapters = applied(name, adapter, *before)
        now = training.model_dump()
        for kind, config in zip(("lora", "lokr", "loha"), adapters, strict=True):
            now |= {f"{kind}_{key}": value for key, value in config.model_dump().items()}
        assert now.items() >= named.items()


@pytest.fixture(scope="module")
def songs(tmp_path_factory, tiny_checkpoint):
    return tensors_for(tmp_path_factory.mktemp("preset_songs"), tiny_checkpoint, [(8, 3), (6, 2)])


@pytest.fixture
def one_thread():
    """The tiny model is too small to share between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "adapter"), EVERY)
def test_every_preset_takes_a_step(name, adapter, songs, tiny_checkpoint, tmp_path):
    job = make_job(songs, tiny_checkpoint, tmp_path / "run")
    job.training, job.lora, job.lokr, job.loha = applied(name, adapter)
    job.training.max_steps = 1
    result, _ = run(job)
    assert result["steps"] == 1
    assert math.isfinite(result["fit_loss"])


def test_the_examples_of_the_guide_run_as_shown(tmp_path):
    training_config, lora_config = TrainingConfig(), LoRAConfig()
    preset_name = auto_select_preset()
    assert preset_name in SEVEN
    assert preset_name.reason
    apply_preset(training_config, lora_config, preset_name)
    assert apply_preset(training_config, lora_config, "recommended") == read_preset("recommended").description
    assert (training_config.max_epochs, lora_config.r) == (100, 64)
    path = tmp_path / "my_custom.json"
    path.write_text('{"_description": "mine", "max_epochs": 3, "lora_r": 8, "lora_dropout": 0}', encoding="utf-8")
    assert apply_preset(training_config, lora_config, str(path)) == "mine"
    assert (training_config.max_epochs, lora_config.r, lora_config.dropout, lora_config.alpha) == (3, 8, 0.0, 128)
    assert load_preset(path) == {"max_epochs": 3, "lora_r": 8, "lora_dropout": 0.0}


def test_all_problems_of_a_user_preset_are_reported_at_once_and_nothing_changes(tmp_path):
    path = tmp_path / "mine.json"
    wrong = {"max_epoch": 3, "lora_rr": 8, "lora_alpha": 0, "optimizer_type": "sgd", "batch_size": 2}
    path.write_text(json.dumps(wrong), encoding="utf-8")
    training, lora = TrainingConfig(), LoRAConfig()
    with pytest.raises(ConfigError) as error:
        apply_preset(training, lora, path)
    text = str(error.value)
    assert len(error.value.problems) == 4
    assert "mine.json: unknown option 'max_epoch' (did you mean 'max_epochs'?)" in text
    assert "'lora_rr' (did you mean 'lora_r'?)" in text
    assert "lora_alpha must be greater than or equal to 1, got 0" in text
    assert "optimizer_type must be" in text
    assert (training, lora) == (TrainingConfig(), LoRAConfig())


def test_keys_that_only_ace_lora_trainer_has_are_reported_and_skipped(tmp_path):
    path = tmp_path / "old.json"
    old = {"encoder_offloading": True, "torch_compile": False, "shift": 3.0, "max_epochs": 3}
    path.write_text(json.dumps(old), encoding="utf-8")
    preset = read_preset(path)
    assert preset.values == {"max_epochs": 3}
    assert preset.settings == {"training.max_epochs": 3}
    assert {remark.key: remark.reason for remark in preset.remarks} == {key: NOT_HERE[key] for key in list(old)[:3]}


def test_no_setting_is_both_known_and_left_out():
    assert not NOT_HERE.keys() & fields(TrainingConfig).keys()


def test_a_chosen_preset_can_be_copied_with_its_reason():
    chosen = preset_for_memory(24)
    assert copy.deepcopy(chosen) == chosen
    assert copy.deepcopy(chosen).reason == chosen.reason


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("quick_tst", "unknown preset 'quick_tst'", "Did you mean 'quick_test'?"),
        ("zzz", "unknown preset", "gpu_24gb"),
        ("there/is/none.json", "does not exist", "recommended"),
        (Path("none"), "does not exist", "recommended"),
    ],
)
def test_an_unknown_preset_is_rejected_with_the_known_names(name, message, hint):
    with pytest.raises(ConfigError, match=message) as error:
        load_preset(name)
    assert hint in error.value.hint
    assert isinstance(error.value, UnknownName) == (message != "does not exist")


@pytest.mark.parametrize(("content", "message"), [("[]", "is not a preset"), ("{", "not valid JSON")])
def test_a_file_that_is_not_a_preset_is_rejected_with_its_path(tmp_path, content, message):
    path = tmp_path / "mine.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        load_preset(path)
    assert "mine.json" in str(error.value)


def test_settings_of_an_unknown_adapter_are_rejected():
    with pytest.raises(ConfigError, match=r"lokr\.factor") as error:
        apply_preset(TrainingConfig(adapter_type="lokr"), LoRAConfig(), "gpu_24gb")
    assert "apply_preset" in error.value.hint
    with pytest.raises(ConfigError, match="'lohra'"):
        load_preset("gpu_24gb", "lohra")


def test_a_user_preset_without_settings_for_the_chosen_adapter_is_rejected(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"adapters": {"lora": {"lora_r": 8}}}', encoding="utf-8")
    with pytest.raises(ConfigError, match="no settings for the adapter 'loha'"):
        load_preset(path, "loha")


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_dora_takes_the_settings_of_lora(name):
    lora, dora = load_preset(name, "lora"), load_preset(name, "dora")
    assert dora == {key.replace("lora_", "dora_"): value for key, value in lora.items()} | {"adapter_type": "dora"}


@pytest.mark.parametrize("adapter", ADAPTERS.names)
@pytest.mark.parametrize("name", ALL_PRESETS)
def test_every_preset_gives_the_chosen_adapter_type_and_a_valid_run(name, adapter, tmp_path):
    values = load_preset(name, adapter)
    assert values["adapter_type"] == adapter
    assert load_preset(name)["adapter_type"] == "lora"
    own = {key for key in values if key.startswith(f"{adapter}_")}
    assert {f"{adapter}_dropout"} <= own
    assert len(own) >= 3

    training, config = TrainingConfig(adapter_type=adapter), ADAPTERS[adapter].config()
    apply_preset(training, LoRAConfig(), name, config)
    flags = {"tensor_dir": tmp_path, "checkpoint": "x", "out": tmp_path / "run"}
    lines = []
    job = train_job_from_flags(flags, None, [f"adapter_type={adapter}"], name, lines.append)
    assert job.training == training
    assert job.adapter == config
    assert job.training.adapter_type == adapter
    assert lines == []
    assert TrainJob.model_validate(job.model_dump()) == job


def test_a_chosen_adapter_type_wins_over_that_of_a_user_preset_with_a_message(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"adapter_type": "lokr", "max_epochs": 3, "lokr_factor": 8}', encoding="utf-8")
    assert load_preset(path)["adapter_type"] == "lokr"
    kept = read_preset(path, "loha")
    assert (kept.values["adapter_type"], kept.values["max_epochs"]) == ("loha", 3)
    assert [str(remark) for remark in kept.remarks] == ["adapter_type = 'lokr': loha was chosen and is kept"]
    flags, lines = {"tensor_dir": tmp_path, "checkpoint": "x", "out": tmp_path / "run"}, []
    job = train_job_from_flags(flags, None, [], str(path), lines.append)
    assert (job.training.adapter_type, job.lokr.factor, lines) == ("lokr", 8, [])
    job = train_job_from_flags(flags, None, ["adapter_type=lora"], str(path), lines.append)
    assert job.training.adapter_type == "lora"
    assert lines == ["Preset mine: adapter_type = 'lokr': lora was chosen and is kept."]
    training, lokr = TrainingConfig(), LoKRConfig()
    apply_preset(training, LoRAConfig(), "recommended")
    apply_preset(training, LoRAConfig(), path, lokr)
    assert (training.adapter_type, lokr.factor) == ("lokr", 8)
    training.adapter_type = "lora"
    apply_preset(training, LoRAConfig(), path, lokr)
    assert training.adapter_type == "lora"


def test_a_resumed_run_keeps_its_adapter_type_when_a_preset_is_given(tmp_path):
    flags = {"tensor_dir": tmp_path, "checkpoint": "x", "out": tmp_path / "run"}
    first = train_job_from_flags(flags, None, ["adapter_type=lokr"])
    RunFolder(first.out).write_settings(first.model_dump(mode="json", include={"training", "lora", "lokr"}))
    again = train_job_from_flags({**flags, "resume": "auto"}, None, [], "vram_8gb")
    assert (again.training.adapter_type, again.training.learning_rate) == ("lokr", 3e-4)


def write_tensors_of(songs, folder):
    """A folder with as many tensor files, without their content."""
    folder.mkdir()
    for number in range(songs):
        (folder / f"{number}.pt").write_bytes(b"")
    return {"tensor_dir": folder, "checkpoint": "x", "out": folder / "run"}


@pytest.mark.parametrize(("songs", "epochs", "every"), [(1, 1500, 200), (12, 500, 100), (60, 200, 50)])
def test_a_new_run_takes_the_recommended_epochs_and_reports_them(songs, epochs, every, tmp_path):
    lines, flags = [], write_tensors_of(songs, tmp_path / "tensors")
    job = train_job_from_flags(flags, None, [], None, lines.append)
    assert (job.training.max_epochs, job.training.save_every_n_epochs) == (epochs, every)
    count = "1 song" if songs == 1 else f"{songs} songs"
    assert lines == [f"Recommended for {count}: max_epochs={epochs}, save_every_n_epochs={every}."]
    assert train_job_from_flags(flags, None, ["save_every_n_epochs=7"]).training.save_every_n_epochs == 7


def test_given_epochs_are_never_replaced_by_the_recommended_ones(tmp_path):
    lines, flags = [], write_tensors_of(12, tmp_path / "tensors")
    own, without, config = tmp_path / "own.json", tmp_path / "without.json", tmp_path / "config.json"
    own.write_text('{"max_epochs": 33}', encoding="utf-8")
    without.write_text('{"lora_r": 8}', encoding="utf-8")
    config.write_text('{"training": {"max_epochs": 44}}', encoding="utf-8")

    def epochs(settings=(), preset=None, file=None, **more):
        return train_job_from_flags(flags | more, file, settings, preset, lines.append).training.max_epochs

    assert epochs(["max_epochs=7"]) == 7
    assert epochs(["training.max_epochs=7"]) == 7
    assert epochs(preset="quick_test") == 10
    assert epochs(preset="recommended") == 100
    assert epochs(preset=str(own)) == 33
    assert epochs(file=config) == 44
    assert epochs(resume=str(tmp_path)) == 100
    assert lines == []
    assert epochs(preset=str(without)) == 500
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("total_gib", "wanted"),
    [
        (139.8, "vram_24gb_plus"),  # H200
        (23.65, "vram_24gb_plus"),  # RTX 4090
        (22.5, "vram_24gb_plus"),
        (22.03, "vram_24gb_plus"),  # L4, which keeps some for error correction
        (19.7, "vram_16gb"),  # RTX A4500, 20 GB
        (15.6, "vram_16gb"),
        (14.58, "vram_16gb"),  # T4
        (11.76, "vram_12gb"),  # RTX 3060
        (9.8, "vram_8gb"),
        (7.8, "vram_8gb"),
        (3.9, "vram_8gb"),
    ],
)
def test_the_nominal_memory_size_of_a_gpu_counts(total_gib, wanted):
    chosen = preset_for_memory(total_gib)
    assert chosen == wanted
    assert f"{total_gib:.1f} GiB" in chosen.reason


@pytest.mark.parametrize("backend", ["cuda", "xpu"])
def test_the_preset_is_chosen_by_the_gpu(monkeypatch, backend):
    card = SimpleNamespace(total_memory=22.5 * 2**30, major=8, minor=6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: backend == "cuda")
    monkeypatch.setattr(getattr(torch, backend), "is_available", lambda: True)
    monkeypatch.setattr(getattr(torch, backend), "get_device_name", lambda *_: "Card 24")
    monkeypatch.setattr(getattr(torch, backend), "get_device_properties", lambda device: card)
    chosen = auto_select_preset()
    assert chosen == "vram_24gb_plus"
    assert chosen.reason == "Card 24 is the fastest available device; 22.5 GiB of memory counts as 24 GB or more"


@pytest.mark.parametrize(("mps", "wanted"), [(True, "recommended"), (False, "vram_8gb")])
def test_without_a_supported_gpu_a_preset_that_runs_is_chosen(monkeypatch, mps, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    chosen = auto_select_preset()
    assert chosen == wanted
    assert chosen.reason


@pytest.mark.parametrize(
    ("songs", "wanted"),
    [
        *[(-1, (1000, 200)), (0, (1000, 200)), (1, (1500, 200)), (3, (1500, 200)), (4, (1000, 200))],
        *[(6, (1000, 200)), (7, (700, 100)), (10, (700, 100)), (11, (500, 100)), (20, (500, 100))],
        *[(21, (300, 50)), (50, (300, 50)), (51, (200, 50)), (5000, (200, 50))],
    ],
)
def test_epochs_are_recommended_by_the_number_of_songs(songs, wanted):
    assert recommend_epochs(songs) == wanted


@pytest.mark.parametrize("name", ALL_PRESETS)
def test_the_command_line_estimates_every_preset_for_every_adapter_type(name, capsys):
    for adapter in ADAPTERS.names:
        assert main(["memory", "--preset", name, "--adapter", adapter]) == 0
        assert capsys.readouterr().out.startswith(f"{adapter} on a ")


def test_the_train_command_takes_an_adapter_type_and_reports_the_recommended_epochs(tmp_path, capsys, monkeypatch):
    jobs = []
    monkeypatch.setattr("acestep.cli.train.run_in_terminal", lambda name, job, *_: jobs.append(job))
    tensors, out = write_tensors_of(12, tmp_path / "tensors")["tensor_dir"], tmp_path / "run"
    command = ["train", str(tensors), "--checkpoint", str(tmp_path), "--out", str(out), "--adapter", "lokr"]
    assert main(command) == 0
    assert "Recommended for 12 songs: max_epochs=500, save_every_n_epochs=100.\n" in capsys.readouterr().err
    (job,) = jobs
    assert (job.training.adapter_type, job.training.learning_rate, job.training.max_epochs) == ("lokr", 3e-4, 500)
    assert main([*command[:-4], "--out", str(tmp_path / "again"), "--epochs", "7"]) == 0
    assert "Recommended" not in capsys.readouterr().err
    assert jobs[-1].training.max_epochs == 7
