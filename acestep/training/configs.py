"""Everything a training run can be told. Importing this does not import torch.

The names are those of the existing trainer (SPEC 3.1); values given as text, ``lora.r=32``, end up here too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from acestep.adapters.configs import (
    ADAPTERS,
    AdapterConfig,
    DoRAConfig,
    LoHaConfig,
    LoKRConfig,
    LoRAConfig,
)
from acestep.core.config import Config, assign, fields, group, groups, option, parse
from acestep.core.errors import ConfigError, TrainingError
from acestep.core.files import read_json
from acestep.core.job_folder import WORKERS
from acestep.core.jobs import register_job
from acestep.core.registry import NameIn, nearest_hint
from acestep.training.evaluation.preview_config import PreviewConfig
from acestep.training.loss_weights import LOSS_WEIGHTS
from acestep.training.optimizers import OPTIMIZERS
from acestep.training.schedules import SCHEDULES
from acestep.training.state.run_folder import RunFolder

DEFAULT_PRESET = "recommended"
_PRESETS = ("apply_preset", "auto_select_preset", "list_presets", "load_preset")  # offered here too, see __getattr__

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
    "set_value",
    "train_job_from_flags",
]

if TYPE_CHECKING:
    from acestep.training.presets import apply_preset, auto_select_preset, list_presets, load_preset


class TrainingConfig(Config):
    """How an adapter is trained."""

    adapter_type: Annotated[str, NameIn(ADAPTERS)] = option(
        "lora", "Adapter Type", "What is trained beside the frozen model."
    )
    attention_type: Literal["both", "self", "cross"] = option(
        "both", "Attention Target", "Which attention is adapted: self (the music), cross (the text) or both."
    )
    train_mlp: bool = option(False, "Train MLP", "Adapt the feed-forward layers too: more memory, stronger effect.")
    learning_rate: float | None = option(
        None, "Learning Rate", "Peak step size. Empty: 1e-4, or 1.0 for Prodigy.", gt=0.0, le=10.0
    )
    max_epochs: int = option(100, "Max Epochs", "Passes over the songs.", ge=1, le=100_000)
    batch_size: int = option(1, "Batch Size", "Songs computed together. Changes speed and memory alone.", ge=1, le=256)
    gradient_accumulation_steps: int = option(
        4, "Gradient Accumulation", "Batches that are gathered before the weights move.", ge=1, le=1024
    )
    optimizer_type: Annotated[str, NameIn(OPTIMIZERS)] = option("adamw", "Optimizer", "How gradients become steps.")
    scheduler_type: Annotated[str, NameIn(SCHEDULES)] = option(
        "cosine", "Scheduler", "How the learning rate goes over the run."
    )
    max_latent_length: int = option(
        1500,
        "Max Crop Length",
        "Each epoch trains on a random part of this length of every song; 0 takes songs whole.",
        unit="frames of 0.04 s",
        ge=0,
        le=15_000,
    )
    seed: int = option(42, "Seed", "The same seed gives the same run.", ge=0, le=2**63 - 1)
    save_every_n_epochs: int = option(10, "Save Every N Epochs", "Checkpoint interval; 0 saves at the end only.", ge=0)
    early_stop_patience: int = option(
        0, "Patience", "Stop after this many epochs without a better moving average; 0 never stops early.", ge=0
    )
    auto_save_best_after: int = option(
        200,
        "Auto-Save Best After",
        "Keep the best epoch, looked for from this one on, at the latest from half of the run; 0 never does.",
        unit="epochs",
        ge=0,
    )

    mixed_precision: Literal["auto", "bf16", "fp16", "fp32"] = option(
        "auto", "Precision", "Of the frozen model and the arithmetic. The adapter is always fp32.", advanced=True
    )
    base_precision: Literal["auto", "int8", "nf4"] = option(
        "auto",
        "Base Precision",
        "The frozen model in 8 or 4 bits takes a half or a quarter of the memory; auto keeps it as Precision says.",
        advanced=True,
    )
    gradient_checkpointing: bool = option(
        False,
        "Gradient Checkpointing",
        "Compute each layer twice instead of remembering it: much less memory, about a third slower.",
    )
    gradient_checkpointing_every: int = option(
        1,
        "Checkpoint Every N Layers",
        "With gradient checkpointing: 1 computes all layers twice, 2 every second one, which is faster and takes more.",
        unit="layers",
        ge=1,
        le=64,
        advanced=True,
    )
    warmup_steps: int = option(
        100,
        "Warm-up",
        "The rate rises over these steps, at most a tenth of the run.",
        unit="steps",
        ge=0,
        advanced=True,
    )
    weight_decay: float = option(
        0.01, "Weight Decay", "Pull of each weight towards zero.", ge=0.0, le=10.0, advanced=True
    )
    max_grad_norm: float = option(1.0, "Max Gradient Norm", "Longer gradients are cut to this.", gt=0.0, advanced=True)
    cfg_dropout_prob: float = option(
        0.15, "CFG Dropout", "Share of songs trained without their text, for guidance.", ge=0.0, le=1.0, advanced=True
    )
    timestep_mu: float | None = option(
        None, "Timestep mu", "Shifts the trained times; empty takes the model's own.", ge=-5.0, le=5.0, advanced=True
    )
    timestep_sigma: float | None = option(
        None, "Timestep sigma", "Spreads the trained times; empty takes the model's own.", gt=0.0, le=5.0, advanced=True
    )
    loss_weighting: Annotated[str, NameIn(LOSS_WEIGHTS)] = option(
        "none", "Loss Weighting", "How much each time on the way from noise to music counts.", advanced=True
    )
    snr_gamma: float = option(
        5.0, "SNR Gamma", "For min_snr: times with more signal than this count less.", gt=0.0, le=100.0, advanced=True
    )
    nan_detection_max: int = option(
        10, "NaN Halt Threshold", "Stop after this many songs in a row without a finite loss; 0 never stops.", ge=0
    )
    ema_decay: float = option(
        0.0,
        "EMA Decay",
        "Keep a moving average of the adapter too, saved beside it as adapter_ema; 0.999 is usual, 0 keeps none.",
        ge=0.0,
        le=0.99999,
        advanced=True,
    )
    max_steps: int = option(
        0, "Max Steps", "End after this many optimizer steps; 0 sets no limit.", ge=0, advanced=True
    )
    save_every_n_steps: int = option(
        0, "Save Every N Steps", "Checkpoints between epochs as well; 0 saves none.", ge=0, advanced=True
    )
    save_every_n_minutes: float = option(
        0.0, "Save Every N Minutes", "Checkpoints by the clock as well; 0 saves none.", unit="min", ge=0, advanced=True
    )
    keep_last_n_checkpoints: int = option(
        0,
        "Keep Last Checkpoints",
        "Older ones are removed; 0 keeps all. Best and final stay, and so does a checkpoint that was renamed or in "
        "which anything else was put, such as a file called keep.",
        ge=0,
        advanced=True,
    )
    measure_every_n_epochs: int = option(
        25,
        "Measure Every N Epochs",
        "How often fit and validation loss are measured; 0: at the start and the end.",
        ge=0,
    )
    validation_percent: int = option(
        15,
        "Validation Share",
        "Share of the songs that are not trained on but measured, if there are six or more.",
        unit="%",
        ge=0,
        le=50,
        advanced=True,
    )
    log_every_n_steps: int = option(10, "Log Every N Steps", "How often a step is reported.", ge=1, advanced=True)


class TrainJob(Config):
    """One training run."""

    tensor_dir: Path = option(..., "Tensors Directory", "Folder of preprocessed songs.")
    checkpoint: str = option(..., "Model", "Name or folder of the model to train.")
    out: Path = option(..., "Output Dir", "Run folder.")
    resume: str | None = option(
        None, "Resume", "auto goes on with what the run folder holds; or the folder of a run, checkpoint or adapter."
    )
    device: str = option("auto", "Device", "auto, cpu, cuda, cuda:1, mps or xpu.", advanced=True)
    devices: int = option(
        1, "Devices", "Graphics cards of this machine to share each step; as many batches are taken.", ge=1, le=64
    )
    num_nodes: int = option(
        1, "Nodes", "Machines that share each step; see the guide for what they need.", ge=1, le=256, advanced=True
    )
    strategy: Literal["ddp", "fsdp"] = option(
        "ddp",
        "Strategy",
        "Of several devices: ddp keeps the model on each, fsdp splits its frozen part between them. fsdp needs CUDA.",
        advanced=True,
    )
    training: TrainingConfig = group(TrainingConfig, "Training")
    lora: LoRAConfig = group(LoRAConfig, "LoRA")
    dora: DoRAConfig = group(DoRAConfig, "DoRA")
    lokr: LoKRConfig = group(LoKRConfig, "LoKr")
    loha: LoHaConfig = group(LoHaConfig, "LoHa")
    samples: PreviewConfig = group(PreviewConfig, "Sample Inference")

    @property
    def folder(self) -> Path:
        """Where this node keeps the job: the run folder, or for further nodes one of their own below it."""
        node = os.environ.get("NODE_RANK", "0") if self.num_nodes > 1 else "0"
        return self.out if node == "0" else self.out / WORKERS / f"node_{node}"

    @property
    def num_processes(self) -> int:
        """One for each device of each node."""
        return self.devices * self.num_nodes

    @property
    def adapter(self) -> AdapterConfig:
        """The settings of the chosen kind of adapter."""
        chosen: AdapterConfig = getattr(self, self.training.adapter_type)
        return chosen


def set_value(job: TrainJob, key: str, value: Any) -> None:
    """Set one setting by name: ``lora.dropout``, or plainly ``dropout`` for the kind of adapter that is chosen.

    Those of the samples are always called by their full names, ``samples.prompt``.
    Text is read as the field's type; ``none`` empties a field that may be empty.

    Raises:
        ConfigError: no such setting, or a wrong value.
    """
    owner, name = _find(key, job.training.adapter_type)
    config = getattr(job, owner)
    may_be_empty = type(None) in get_args(fields(type(config))[name].annotation)
    assign(config, name, None if may_be_empty and str(value).strip().lower() in ("", "none", "null") else value)


def _find(key: str, adapter_type: str) -> tuple[str, str]:
    known = {f"{owner}.{name}": (owner, name) for owner, kind in groups(TrainJob).items() for name in fields(kind)}
    for spelt in (key, f"training.{key}", f"{adapter_type}.{key}"):
        if spelt in known:
            return known[spelt]
    alone = [pair for pair in known.values() if pair[1] == key and pair[0] != "samples"]
    if len(alone) == 1:  # a setting of another kind of adapter that no other kind has
        return alone[0]
    plain = [name for owner, name in known.values() if owner in ("training", adapter_type)]
    raise ConfigError([f"no setting is called {key!r}"], hint=nearest_hint(key, [*known, *plain]))


def train_job_from_flags(
    flags: Mapping[str, Any], config: Path | None, settings: Iterable[str], preset: str | None = None
) -> TrainJob:
    """The job of a command line: the flags' values, a preset, a JSON file of settings, then ``key=value`` texts.

    Without a preset it is ``recommended``. A run that goes on by itself ("auto") keeps the settings it had, but for
    those that are given.

    Raises:
        ConfigError: with all problems at once; UnknownName for the preset.
        TrainingError: the file cannot be read, or a new run would mix with the one that is in the folder.
    """
    job = parse(TrainJob, flags)
    kept = RunFolder(job.out).read_settings() if job.resume == "auto" else {}
    job = parse(TrainJob, {**kept, **flags})
    pairs = list(_from_file(config).items()) if config else []
    problems: list[str] = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        if equals:
            pairs.append((key.strip(), value.strip()))
        else:
            problems.append(f"{setting!r} is not of the form key=value")
    if preset or not kept:
        pairs = [*_of_preset(preset or DEFAULT_PRESET, pairs), *pairs]
    for key, value in sorted(pairs, key=lambda pair: not pair[0].endswith("adapter_type")):  # it tells what r means
        try:
            set_value(job, key, value)
        except ConfigError as error:
            problems += [f"{problem} ({error.hint})" if error.hint else problem for problem in error.problems]
    problems += [_idle_ranks(key, job) for key, value in pairs if value and key.endswith(".ranks")]
    if problems := [problem for problem in problems if problem]:
        raise ConfigError(problems)
    if job.resume is None:
        RunFolder(job.out).require_empty()
    return job


def _idle_ranks(key: str, job: TrainJob) -> str:
    """Why ranks of single modules (``estimate`` proposes some) are not those of the adapter; "" if they are."""
    kind, chosen = key.partition(".")[0], job.training.adapter_type
    if kind == chosen or kind not in ADAPTERS or not ADAPTERS[kind].has_ranks:
        return ""
    if ADAPTERS[chosen].has_ranks:
        return f"{key} is for a {ADAPTERS[kind].label} and {chosen} is trained: ask estimate for ranks of that kind"
    return f"{key} is for a {ADAPTERS[kind].label}: a {ADAPTERS[chosen].label} has one size for all of its modules"


def _of_preset(name: str, pairs: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """What a preset sets for the kind of adapter that ``pairs`` ask for."""
    from acestep.training.presets import read_preset  # made of the configurations above

    asked = [str(value) for key, value in pairs if key.rpartition(".")[2] == "adapter_type"]
    kind = asked[-1] if asked and asked[-1] in ADAPTERS.names else "lora"
    return list(read_preset(name, kind).settings.items())


def _from_file(path: Path) -> dict[str, Any]:
    """Qualified or plain names to values; keys that begin with an underscore are notes."""
    content = read_json(path, error=TrainingError, hint="Give a JSON file of settings.")
    if not isinstance(content, dict):
        raise ConfigError([f"{path} does not hold settings"])
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key in groups(TrainJob) and isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        elif not key.startswith("_"):
            found[key] = value
    return found


def __getattr__(name: str) -> Any:
    """The functions of the presets, which are made of these configurations and so cannot be imported above."""
    if name in _PRESETS:
        from acestep.training import presets

        return getattr(presets, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_job("train", config="acestep.training.configs:TrainJob", run="acestep.training.trainer:train_job")
