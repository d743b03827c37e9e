"""Profiles: the state of the trainer page in one JSON file, compatible with ace-lora-trainer.

A setting that ace-lora-trainer has is stored under its name there. Other settings are stored under their qualified
name, such as ``training.train_mlp``, which ace-lora-trainer ignores. Only settings and the names below are written, so
a profile never contains an API key.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acestep.adapters.configs import ADAPTERS
from acestep.core.config import Config
from acestep.core.errors import ConfigError, DatasetError
from acestep.core.files import read_json, write_json
from acestep.core.paths import is_network_path
from acestep.dataset.sample import Dataset
from acestep.dataset.store import dataset_to_dict, parse_dataset
from acestep.training.optim.optimizers import DEFAULT_RATE
from acestep.training.settings import NOT_HERE, Remark, Settings, apply_fitting, values_of

VERSION = 1

# Keys of ace-lora-trainer that correspond to one setting.
SETTINGS = {
    "checkpoint_dropdown": "job.checkpoint",
    "preprocess_output_dir": "preprocess.out",
    "max_duration_slider": "preprocess.max_duration_s",
    "training_tensor_dir": "job.tensor_dir",
    "adapter_type": "training.adapter_type",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lokr_factor": "lokr.factor",
    "lokr_linear_dim": "lokr.linear_dim",
    "lokr_linear_alpha": "lokr.linear_alpha",
    "lokr_decompose_both": "lokr.decompose_both",
    "lokr_use_tucker": "lokr.use_tucker",
    "lokr_dropout": "lokr.dropout",
    "learning_rate": "training.learning_rate",
    "max_epochs": "training.max_epochs",
    "batch_size": "training.batch_size",
    "gradient_accumulation": "training.gradient_accumulation_steps",
    "optimizer_type": "training.optimizer_type",
    "scheduler_type": "training.scheduler_type",
    "attention_type": "training.attention_type",
    "seed": "training.seed",
    "timestep_mu": "training.timestep_mu",
    "timestep_sigma": "training.timestep_sigma",
    "cfg_dropout_prob": "training.cfg_dropout_prob",
    "save_every_n_epochs": "training.save_every_n_epochs",
    "auto_save_best_after": "training.auto_save_best_after",
    "max_latent_length": "training.max_latent_length",
    "gradient_checkpointing_enabled": "training.gradient_checkpointing",
    "torch_compile_enabled": "training.compile",
    "lora_output_dir": "job.out",
    "loss_weighting": "training.loss_weighting",
    "snr_gamma": "training.snr_gamma",
    "nan_detection_max": "training.nan_detection_max",
    "audio_norm_dropdown": "preprocess.normalize",
    "sample_enabled": "samples.enabled",
    "sample_every_n": "samples.every_n_epochs",
    "sample_prompt": "samples.prompt",
    "sample_lyrics": "samples.lyrics",
    "sample_bpm": "samples.bpm",
    "sample_key": "samples.keyscale",
    "sample_time_sig": "samples.timesignature",
    "sample_duration": "samples.duration_s",
    "sample_strengths": "samples.strengths",
    "sample_inf_steps": "samples.steps",
    "sample_guidance": "samples.guidance",
    "sample_shift": "samples.shift",
    "sample_seed": "samples.seed",
}

# Keys that form one setting together.
_PATIENCE = ("early_stop_enabled", "early_stop_patience_val")
_RESUME = ("resume_enabled", "resume_dir", "resume_checkpoint_dropdown")

# Keys without effect here, with the value that applies.
FIXED = {"encoder_offloading_enabled": True}

# Fields of the page that belong to no config; they are stored unchanged.
CONTROLS = frozenset(
    {
        *("custom_ckpt_dir", "split_input_dir", "split_output_dir", "split_duration", "audio_directory"),
        *("load_dataset_path", "dataset_name", "custom_tag", "tag_position", "all_instrumental", "genre_ratio"),
        *("skip_metas", "only_unlabeled", "save_path", "gpu_preset", "model_type_radio", "shift", "guidance_scale"),
        *("num_inference_steps", "estimate_tensor_dir", "estimate_batches", "estimate_granularity"),
        *("estimate_top_k", "export_path", "merge_base_model", "merge_lora_dir"),
        *("merge_checkpoint_dropdown", "merge_output_dir"),
    }
)

# Choices of ace-lora-trainer for a setting: value here -> value there. Other values are written as the first one.
_CHOICES: dict[str, dict[Any, Any]] = {
    "adapter_type": {"lora": "LoRA", "lokr": "LoKr"},
    "gradient_checkpointing_enabled": {"on": True, "off": False},
    "torch_compile_enabled": {"off": False, "on": True},
    "scheduler_type": {name: name for name in ("cosine", "linear", "constant", "constant_with_warmup")},
}
_WHEN_EMPTY = {"learning_rate": DEFAULT_RATE, "timestep_mu": -0.4, "timestep_sigma": 1.0, "sample_bpm": 120}
_DEFAULT_PATIENCE = 80


@dataclass(frozen=True, slots=True)
class Profile:
    """The content of a profile. ``settings`` have qualified names, ``controls`` those of ace-lora-trainer.

    ``folder`` is the scanned folder of the dataset. ``remarks`` name what was skipped.
    """

    settings: Settings
    controls: dict[str, Any]
    dataset: Dataset | None
    folder: str
    remarks: list[Remark]

    def apply(self, configs: Mapping[str, Config]) -> list[Remark]:
        """Apply the settings to ``configs``, keyed by ``profile_groups``. Settings that the file lacks are unchanged.

        Returns remarks on values that were changed or skipped.
        """
        return apply_fitting(self.settings, configs)


def profile_groups() -> tuple[str, ...]:
    """The groups of settings in a profile; "job" is the ``TrainJob`` itself."""
    return ("job", "training", *ADAPTERS.names, "preprocess", "samples")


def read_profile(path: Path) -> Profile:
    """Read a profile of this program or of ace-lora-trainer.

    Raises:
        ConfigError: the file cannot be read, is not a profile, or has a newer version.
    """
    data = read_json(path, error=ConfigError, hint="Choose a profile saved by the trainer.")
    if not isinstance(data, dict) or not isinstance(data.get("ui_state"), dict):
        raise ConfigError([f"{path} is not a profile"], hint="Presets of Side-Step are imported, not loaded.")
    version = data.get("schema_version", VERSION)
    if version != VERSION:
        raise ConfigError(
            [f"{path} has version {version!r}, this program reads version {VERSION}"], hint="Update this program."
        )
    state, remarks = data["ui_state"], list[Remark]()
    dataset, folder = _dataset(data.get("dataset_state"), path, remarks)
    settings = {SETTINGS[key]: value for key, value in state.items() if key in SETTINGS and value is not None}
    settings |= _patience(state) | _resume(state)
    settings |= {key: value for key, value in state.items() if key.partition(".")[0] in profile_groups() and "." in key}
    remarks += [
        Remark(key, state[key], NOT_HERE[key.removesuffix("_enabled")])
        for key, here in FIXED.items()
        if state.get(key, here) != here
    ]
    known = {*SETTINGS, *CONTROLS, *_PATIENCE, *_RESUME, *FIXED, *settings}
    remarks += [Remark(key, value, "there is no such setting here") for key, value in state.items() if key not in known]
    controls = {key: value for key, value in state.items() if key in CONTROLS and value is not None}
    return Profile(settings, controls, dataset, folder, remarks)


def write_profile(
    path: Path,
    configs: Mapping[str, Config],
    *,
    controls: Mapping[str, Any] | None = None,
    dataset: Dataset | None = None,
    folder: str = "",
) -> None:
    """Write a profile for both programs. Keys of ``configs``: ``profile_groups``; of ``controls``: ``CONTROLS``.

    Raises:
        DiskFull, NotWritable, StorageError.
    """
    fields_of_the_page = dict(controls or {})
    assert set(configs) <= set(profile_groups())
    assert set(fields_of_the_page) <= CONTROLS
    own = values_of(configs)
    state = fields_of_the_page | FIXED | _patience_keys(own) | _resume_keys(own)
    for key, setting in SETTINGS.items():
        if setting in own:
            state[key] = _to_ace_lora_trainer(key, own[setting])
    state |= {key: value for key, value in own.items() if not _expressible(key, value)}
    samples = dataset.samples if dataset else []
    write_json(
        path,
        {
            "schema_version": VERSION,
            "saved_at": time.time(),
            "workflow_state": {
                "service_ready": False,
                "dataset_loaded": bool(samples),
                "dataset_labeled": bool(samples) and all(sample.labeled for sample in samples),
                "tensors_ready": False,
                "training_complete": False,
            },
            "ui_state": state,
            "dataset_state": dataset_to_dict(dataset) | {"_current_dir": folder} if dataset else None,
        },
    )


def _dataset(data: Any, path: Path, remarks: list[Remark]) -> tuple[Dataset | None, str]:
    if not isinstance(data, dict) or not data.get("samples"):
        return None, ""
    folder = str(data.get("_current_dir") or "")
    if is_network_path(folder):
        remarks.append(Remark("dataset_state", folder, "network paths are not opened"))
        folder = ""
    try:
        return parse_dataset(data, path, Path(folder) if folder else path.resolve().parent), folder
    except DatasetError as error:
        remarks.append(Remark("dataset_state", folder, str(error)))
        return None, folder


def _to_ace_lora_trainer(key: str, value: Any) -> Any:
    """The value for ace-lora-trainer, which has no empty fields and fewer choices."""
    if value is None:
        return _WHEN_EMPTY[key]
    choices = _CHOICES.get(key)
    return choices.get(value, next(iter(choices.values()))) if choices else value


def _expressible(setting: str, value: Any) -> bool:
    """Whether ace-lora-trainer can represent this value exactly."""
    if setting == "training.early_stop_patience":
        return True
    key = next((key for key, name in SETTINGS.items() if name == setting), None)
    return key is not None and value is not None and (key not in _CHOICES or value in _CHOICES[key])


def _patience(state: Mapping[str, Any]) -> Settings:
    enabled, epochs = (state.get(key) for key in _PATIENCE)
    if enabled is None or (enabled and epochs is None):
        return {}
    return {"training.early_stop_patience": epochs if enabled else 0}


def _patience_keys(own: Settings) -> dict[str, Any]:
    epochs = own.get("training.early_stop_patience")
    return {} if epochs is None else dict(zip(_PATIENCE, (epochs > 0, epochs or _DEFAULT_PATIENCE), strict=True))


def _resume(state: Mapping[str, Any]) -> Settings:
    enabled, folder, choice = (state.get(key) for key in _RESUME)
    if not enabled or not folder:
        return {} if enabled is None else {"job.resume": None}
    if not isinstance(folder, str):
        return {"job.resume": folder}  # rejected when it is applied
    inside = choice if choice in (None, "", "final", "best") else f"checkpoints/{choice}"
    return {"job.resume": str(Path(folder) / (inside or ""))}


def _resume_keys(own: Settings) -> dict[str, Any]:
    if "job.resume" not in own:
        return {}
    resume = own["job.resume"]
    at = Path(resume if resume not in (None, "auto") else own["job.out"])
    if at.parent.name == "checkpoints":
        folder, choice = at.parent.parent, at.name
    elif at.name in ("final", "best"):
        folder, choice = at.parent, at.name
    else:
        folder, choice = at, None
    return dict(zip(_RESUME, (resume is not None, str(folder), choice), strict=True))
