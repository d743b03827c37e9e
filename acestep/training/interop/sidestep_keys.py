"""The 69 keys of a Side-Step preset and the settings they correspond to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from acestep.training.optim.schedules import FLOOR, WARMUP_START


@dataclass(frozen=True, slots=True)
class Key:
    """One key. ``setting`` is the same thing here; without it, a value other than ``here`` cannot be kept: ``why``.

    ``here`` is what this program does, and so what an exported file says. ``part_of`` names the adapter, or the key
    that must not be zero, without which the key changes nothing.
    """

    setting: str = ""
    here: Any = None
    why: str = ""
    part_of: str = ""


ATTENTION = "q_proj k_proj v_proj o_proj"
MLP = "gate_proj up_proj down_proj"
FRAMES_PER_S = 25  # of the latents
MAXIMA = {"rank": 1024, "learning_rate": 1.0}  # above these, Side-Step refuses

# A file with three of the first is a preset of Side-Step; one with all of the second describes one of its runs.
PRESET_MARKS = frozenset({"rank", "alpha", "epochs", "gradient_accumulation"})
RUN_MARKS = frozenset({"cfg_ratio", "max_epochs", "gradient_accumulation_steps"})

_GENERATION = "used by generation, not by training"
NO_ADAPTER = "this adapter type is not supported"
_NO_VARIANT = "this variant of the adapter is not supported"
_ONE_CHOICE = "attention_type and target_mlp select the adapted layers"
_NO_TARGET = "a run ends after its epochs, steps or patience; there is no loss target"
NO_CODE = "a formula is code, and code from a file is never run"

KEYS: dict[str, Key] = {
    "adapter_type": Key("training.adapter_type"),
    "rank": Key("lora.r"),
    "alpha": Key("lora.alpha"),
    "dropout": Key("lora.dropout"),
    "target_modules_str": Key(here=ATTENTION, why=_ONE_CHOICE),
    "self_target_modules_str": Key(here=ATTENTION, why=_ONE_CHOICE),
    "cross_target_modules_str": Key(here=ATTENTION, why=_ONE_CHOICE),
    "attention_type": Key("training.attention_type"),
    "target_mlp": Key("training.train_mlp"),
    "bias": Key(here="none", why="biases are never trained"),
    "use_dora": Key(here=False, why=NO_ADAPTER),
    "lokr_linear_dim": Key("lokr.linear_dim"),
    "lokr_linear_alpha": Key("lokr.linear_alpha"),
    "lokr_factor": Key("lokr.factor"),
    "lokr_decompose_both": Key("lokr.decompose_both"),
    "lokr_use_tucker": Key("lokr.use_tucker"),
    "lokr_use_scalar": Key(here=False, why=_NO_VARIANT, part_of="lokr"),
    "lokr_weight_decompose": Key("lokr.weight_decompose"),
    "loha_linear_dim": Key("loha.r", here=64, why=NO_ADAPTER, part_of="loha"),
    "loha_linear_alpha": Key("loha.alpha", here=128, why=NO_ADAPTER, part_of="loha"),
    "loha_factor": Key(here=-1, why=_NO_VARIANT, part_of="loha"),
    "loha_use_tucker": Key(here=False, why=_NO_VARIANT, part_of="loha"),
    "loha_use_scalar": Key(here=False, why=_NO_VARIANT, part_of="loha"),
    "oft_block_size": Key(here=64, why=NO_ADAPTER, part_of="oft"),
    "oft_coft": Key(here=False, why=NO_ADAPTER, part_of="oft"),
    "oft_eps": Key(here=6e-5, why=NO_ADAPTER, part_of="oft"),
    "learning_rate": Key("training.learning_rate"),
    "batch_size": Key("training.batch_size"),
    "gradient_accumulation": Key("training.gradient_accumulation_steps"),
    "epochs": Key("training.max_epochs"),
    "max_steps": Key("training.max_steps"),
    "warmup_steps": Key("training.warmup_steps"),
    "weight_decay": Key("training.weight_decay"),
    "max_grad_norm": Key("training.max_grad_norm"),
    "seed": Key("training.seed"),
    "dataset_repeats": Key(here=1, why="each epoch uses every sample once; train for more epochs instead"),
    "shift": Key(here=None, why=_GENERATION),
    "num_inference_steps": Key(here=None, why=_GENERATION),
    "crop_mode": Key(here=None),  # a hint for Side-Step's page; the lengths decide
    "chunk_duration": Key(here=0),  # in seconds; read into the crop length
    "max_latent_length": Key("training.max_latent_length"),
    "chunk_decay_every": Key(
        here=10,
        why="crop positions are uniform; no history is kept",
        part_of="max_latent_length",
    ),
    "optimizer_type": Key("training.optimizer_type"),
    "scheduler_type": Key("training.scheduler_type"),
    "scheduler_formula": Key(here="", why=NO_CODE),
    "timestep_mode": Key(here="continuous", why="timesteps are always sampled from the continuous range"),
    "cfg_ratio": Key("training.cfg_dropout_prob"),
    "loss_weighting": Key("training.loss_weighting"),
    "snr_gamma": Key("training.snr_gamma"),
    "save_every": Key("training.save_every_n_epochs"),
    "log_every": Key("training.log_every_n_steps"),
    "log_heavy_every": Key(here=50, why="gradients are not logged per layer"),
    "save_best": Key("training.auto_save_best_after"),
    "save_best_after": Key("training.auto_save_best_after"),
    "early_stop_patience": Key("training.early_stop_patience"),
    "target_loss": Key(here=0, why=_NO_TARGET),
    "target_loss_floor": Key(here=0.01, why=_NO_TARGET, part_of="target_loss"),
    "target_loss_warmup": Key(here=50, why=_NO_TARGET, part_of="target_loss"),
    "target_loss_smoothing": Key(here=0.98, why=_NO_TARGET, part_of="target_loss"),
    "gradient_checkpointing": Key("training.gradient_checkpointing"),
    "gradient_checkpointing_ratio": Key(here=1.0, why="all layers are checkpointed, or none"),
    "offload_encoder": Key(here=True, why="the encoders are not loaded during training"),
    "ema_decay": Key("training.ema_decay"),
    "val_split": Key("training.validation_percent"),
    "adaptive_timestep_ratio": Key(here=0, why="the timestep distribution is fixed"),
    "warmup_start_factor": Key(here=WARMUP_START, why=f"warmup always starts at {WARMUP_START} of the learning rate"),
    "cosine_eta_min_ratio": Key(here=FLOOR, why=f"the learning rate always decays to {FLOOR} of its peak"),
    "cosine_restarts_count": Key(here=4, why="the first cycle always takes a quarter of the run"),
    "save_best_every_n_steps": Key(here=0, why="the best model is selected between epochs"),
}

# Names of the same keys in Side-Step's command-line files and in what it writes into a run folder.
ALIASES = {
    "lr": "learning_rate",
    "grad_accum": "gradient_accumulation",
    "gradient_accumulation_steps": "gradient_accumulation",
    "max_epochs": "epochs",
    "save_every_n_epochs": "save_every",
    "log_every_n_steps": "log_every",
    "scheduler": "scheduler_type",
    "early_stop": "early_stop_patience",
    "projections": "target_modules_str",
    "target_modules": "target_modules_str",
    "self_projections": "self_target_modules_str",
    "cross_projections": "cross_target_modules_str",
    "r": "rank",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "linear_dim": "lokr_linear_dim",
    "linear_alpha": "lokr_linear_alpha",
    "factor": "lokr_factor",
    "decompose_both": "lokr_decompose_both",
    "use_tucker": "lokr_use_tucker",
    "use_scalar": "lokr_use_scalar",
    "weight_decompose": "lokr_weight_decompose",
}

# Keys outside presets that are settings here.
BEYOND_PRESETS = {"timestep_mu": "training.timestep_mu", "timestep_sigma": "training.timestep_sigma"}

# Keys of a run's file that tell where and how it ran, not what it trained.
OF_THE_RUN = frozenset(
    {
        *("output_dir", "log_dir", "run_name", "resume_from", "strict_resume", "preprocess", "dataset_json"),
        *("audio_dir", "tensor_output", "dataset_dir", "checkpoint_dir", "model_variant", "is_turbo", "max_duration"),
        *("normalize", "device", "precision", "mixed_precision", "vram_profile", "num_workers", "pin_memory"),
        *("prefetch_factor", "persistent_workers", "pin_memory_device"),
    }
)
