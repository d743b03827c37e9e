"""Configs of a training run. Importing this module does not import torch.

Field names are those of ace-lora-trainer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator
from pydantic.fields import FieldInfo

from acestep.adapters.configs import (
    ADAPTERS,
    AdapterConfig,
    LoKRConfig,
    LoRAConfig,
)
from acestep.core.config import MAX_COUNT, Config, fields, group, option
from acestep.core.jobs import register_job
from acestep.core.registry import NameIn
from acestep.training.evaluation.preview_config import PreviewConfig
from acestep.training.optim.loss_weightings import LOSS_WEIGHTS
from acestep.training.optim.optimizers import OPTIMIZERS
from acestep.training.optim.schedules import SCHEDULES

DEFAULT_PRESET = "recommended"
_PRESETS = ("apply_preset", "auto_select_preset", "list_presets", "load_preset")  # re-exported by __getattr__

__all__ = [
    "LoKRConfig",
    "LoRAConfig",
    "PreviewConfig",
    "TrainJob",
    "TrainingConfig",
    "apply_preset",
    "auto_select_preset",
    "list_presets",
    "load_preset",
]

if TYPE_CHECKING:
    from acestep.training.presets import apply_preset, auto_select_preset, list_presets, load_preset


def _on_or_off(value: Any) -> Any:
    """Earlier versions, and other trainers, know only true and false."""
    spelling = str(value).strip().lower()
    choices = {"on": ("true", "1", "1.0", "yes", "y", "t"), "off": ("false", "0", "0.0", "no", "n", "f")}
    return next((choice for choice, spellings in choices.items() if spelling in spellings), value)


Checkpointing = Annotated[Literal["auto", "off", "on", "offload"], BeforeValidator(_on_or_off)]
Compilation = Annotated[Literal["auto", "off", "on"], BeforeValidator(_on_or_off)]


class TrainingConfig(Config):
    """How an adapter is trained."""

    adapter_type: Annotated[str, NameIn(ADAPTERS)] = option(
        "lora", "Adapter Type", "Kind of adapter to train; the base model stays frozen."
    )
    attention_type: Literal["both", "self", "cross"] = option(
        "both", "Attention Target", "Attention layers to adapt: self (music), cross (text) or both."
    )
    train_mlp: bool = option(False, "Train MLP", "Adapt the feed-forward layers too: uses more memory, learns more.")
    learning_rate: float | None = option(
        None,
        "Learning Rate",
        "Peak learning rate. Empty: the optimizer's default, 1e-4 or 1.0 for Prodigy.",
        gt=0.0,
        le=10.0,
    )
    max_epochs: int = option(100, "Max Epochs", "Number of passes over the dataset.", ge=1, le=100_000)
    batch_size: int = option(1, "Batch Size", "Samples per forward pass. Affects only speed and memory.", ge=1, le=256)
    gradient_accumulation_steps: int = option(
        4, "Gradient Accumulation", "Micro-batches per optimizer step.", ge=1, le=1024
    )
    optimizer_type: Annotated[str, NameIn(OPTIMIZERS)] = option("adamw", "Optimizer", "Optimizer algorithm.")
    scheduler_type: Annotated[str, NameIn(SCHEDULES)] = option("cosine", "Scheduler", "Learning-rate schedule.")
    max_latent_length: int = option(
        1500,
        "Max Crop Length",
        "Each epoch trains on a random crop of every sample; 0 uses the whole sample.",
        unit="frames of 0.04 s",
        ge=0,
        le=15_000,
    )
    seed: int = option(42, "Seed", "Random seed; the same seed reproduces a run.", ge=0, le=2**63 - 1)
    save_every_n_epochs: int = option(
        10, "Save Every N Epochs", "Checkpoint interval; 0 saves at the end only.", ge=0, le=MAX_COUNT
    )
    early_stop_patience: int = option(
        0,
        "Patience",
        "Early stopping: epochs without improvement of the moving average; 0 disables it.",
        ge=0,
        le=MAX_COUNT,
    )
    auto_save_best_after: int = option(
        200,
        "Auto-Save Best After",
        "Save the best epoch from this one on, or from half of the run if that is earlier; 0 disables it.",
        unit="epochs",
        ge=0,
        le=MAX_COUNT,
    )

    mixed_precision: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto",
        "Precision",
        "Dtype of the base model and of the computation. The adapter is always fp32. auto selects bf16 on GPUs that "
        "compute in it, otherwise fp32; in fp16 the model may overflow.",
        advanced=True,
    )
    base_precision: Literal["auto", "int8", "nf4"] = option(
        "auto",
        "Base Precision",
        "Quantize the base model to 8 or 4 bits: about 1/2 or 1/4 of its memory. auto keeps Precision, except on GPUs "
        "without fast bf16: there it quantizes a model that does not fit in fp32.",
        advanced=True,
    )
    gradient_checkpointing: Checkpointing = option(
        "auto",
        "Gradient Checkpointing",
        "Recompute activations in the backward pass: much less memory, about a third slower, and the same result. auto "
        "does so for as few layers as the free memory requires; offload also keeps the inputs of the layers in CPU "
        "memory.",
    )
    gradient_checkpointing_every: int = option(
        1,
        "Checkpoint Every N Layers",
        "With gradient checkpointing on: 1 recomputes every layer, 2 every 2nd layer: faster, but more memory.",
        unit="layers",
        ge=1,
        le=64,
        advanced=True,
    )
    compile: Compilation = option(
        "auto",
        "torch.compile",
        "Compile the layers of the model: faster steps after a start of a few minutes. They are used only if their "
        "gradients match those of the uncompiled layers on this computer. auto compiles on CUDA GPUs.",
        advanced=True,
    )
    warmup_steps: int = option(
        100,
        "Warm-up",
        "Linear warmup steps of the learning rate, at most a tenth of the run.",
        unit="steps",
        ge=0,
        le=MAX_COUNT,
        advanced=True,
    )
    weight_decay: float = option(0.01, "Weight Decay", "Weight decay coefficient.", ge=0.0, le=10.0, advanced=True)
    max_grad_norm: float = option(
        1.0, "Max Gradient Norm", "Clip the gradient norm to this value.", gt=0.0, le=1e9, advanced=True
    )
    cfg_dropout_prob: float = option(
        0.15,
        "CFG Dropout",
        "Probability of replacing the condition with the null embedding (classifier-free guidance).",
        ge=0.0,
        le=1.0,
        advanced=True,
    )
    timestep_mu: float | None = option(
        None,
        "Timestep mu",
        "Mean of the logit-normal timestep distribution; empty uses the model's own.",
        ge=-5.0,
        le=5.0,
        advanced=True,
    )
    timestep_sigma: float | None = option(
        None,
        "Timestep sigma",
        "Standard deviation of the logit-normal timestep distribution; empty uses the model's own.",
        gt=0.0,
        le=5.0,
        advanced=True,
    )
    loss_weighting: Annotated[str, NameIn(LOSS_WEIGHTS)] = option(
        "none", "Loss Weighting", "Weight of the loss at each timestep.", advanced=True
    )
    snr_gamma: float = option(
        5.0,
        "SNR Gamma",
        "For min_snr: timesteps with a higher signal-to-noise ratio get a lower weight.",
        gt=0.0,
        le=100.0,
        advanced=True,
    )
    nan_detection_max: int = option(
        10,
        "NaN Halt Threshold",
        "Stop after this many consecutive samples with a non-finite loss; 0 disables it.",
        ge=0,
        le=MAX_COUNT,
    )
    ema_decay: float = option(
        0.0,
        "EMA Decay",
        "Also save a moving average of the adapter as adapter_ema; 0.999 is common, 0 disables it.",
        ge=0.0,
        le=0.99999,
        advanced=True,
    )
    max_steps: int = option(
        0, "Max Steps", "Maximum number of optimizer steps; 0 sets no limit.", ge=0, le=MAX_COUNT, advanced=True
    )
    save_every_n_steps: int = option(
        0,
        "Save Every N Steps",
        "Additional checkpoints every N optimizer steps; 0 disables them.",
        ge=0,
        le=MAX_COUNT,
        advanced=True,
    )
    save_every_n_minutes: float = option(
        0.0,
        "Save Every N Minutes",
        "Additional checkpoints every N minutes; 0 disables them.",
        unit="min",
        ge=0,
        le=MAX_COUNT,
        advanced=True,
    )
    keep_last_n_checkpoints: int = option(
        0,
        "Keep Last Checkpoints",
        "Number of latest checkpoints to keep; 0 keeps all. The best and the final adapter stay, and so does a "
        "checkpoint folder that you rename or add a file to, such as keep.",
        ge=0,
        le=MAX_COUNT,
        advanced=True,
    )
    measure_every_n_epochs: int = option(
        25,
        "Measure Every N Epochs",
        "Evaluation interval of fit and validation loss; 0: only at the start and the end.",
        ge=0,
        le=MAX_COUNT,
    )
    validation_percent: int = option(
        15,
        "Validation Share",
        "Percentage of the samples held out for validation, if there are at least six.",
        unit="%",
        ge=0,
        le=50,
        advanced=True,
    )
    max_validation_songs: int = option(
        32,
        "Max Validation Songs",
        "Maximum number of samples held out for validation, however large the share; 0 sets no limit.",
        ge=0,
        le=MAX_COUNT,
        advanced=True,
    )
    log_every_n_steps: int = option(
        10, "Log Every N Steps", "Logging interval in optimizer steps.", ge=1, le=MAX_COUNT, advanced=True
    )


class TrainJob(Config):
    """One training run. Each adapter kind in ``ADAPTERS`` adds a field of its name that holds its config."""

    tensor_dir: Path = option(..., "Tensors Directory", "Folder of preprocessed tensors.")
    checkpoint: str = option(..., "Model", "Name or folder of the base model.")
    out: Path = option(..., "Output Dir", "Run folder.")
    resume: str | None = option(
        None, "Resume", "auto: resume from the run folder. Or the path of a run, checkpoint or adapter."
    )
    device: str = option("auto", "Device", "auto, cpu, cuda, cuda:1, mps or xpu.", advanced=True)
    devices: int = option(
        1, "Devices", "Number of GPUs of this machine for data-parallel training, each with its own batch.", ge=1, le=64
    )
    strategy: Literal["ddp", "fsdp"] = option(
        "ddp",
        "Strategy",
        "With several devices: ddp replicates the model, fsdp shards the frozen base model (only CUDA on Linux).",
        advanced=True,
    )
    training: TrainingConfig = group(TrainingConfig, "Training")
    samples: PreviewConfig = group(PreviewConfig, "Sample Inference")

    @property
    def folder(self) -> Path:
        """The job folder: the run folder."""
        return self.out

    @model_validator(mode="before")
    @classmethod
    def _drop_former_fields(cls, data: Any) -> Any:
        """Ignore ``num_nodes``, which earlier versions wrote; torchrun or SLURM states the number of machines."""
        return {key: value for key, value in data.items() if key != "num_nodes"} if isinstance(data, dict) else data

    @property
    def adapter(self) -> AdapterConfig:
        """The config of the chosen adapter kind."""
        chosen: AdapterConfig = getattr(self, self.training.adapter_type)
        return chosen

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The fields that the registry adds."""


def _update_adapter_groups() -> None:
    """Give ``TrainJob`` one field for each registered adapter kind, before the audio previews."""
    own = {name: field for name, field in fields(TrainJob).items() if not _is_adapter_group(field)}
    previews = own.pop("samples")
    groups = {
        entry.name: FieldInfo.from_annotated_attribute(entry.config, group(entry.config, entry.label))
        for entry in ADAPTERS
    }
    declared = TrainJob.__pydantic_fields__
    declared.clear()
    declared.update(own | groups | {"samples": previews})
    TrainJob.model_rebuild(force=True)


def _is_adapter_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, AdapterConfig)


_update_adapter_groups()
ADAPTERS.on_change(_update_adapter_groups)


def __getattr__(name: str) -> Any:
    """The preset functions. ``presets`` imports this module, so they are imported on first use."""
    if name in _PRESETS:
        from acestep.training import presets

        return getattr(presets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_job(
    "train",
    config="acestep.training.configs:TrainJob",
    run="acestep.training.trainer:train_job",
    distributed=True,
    check="acestep.training.start_check:check_start",
)
