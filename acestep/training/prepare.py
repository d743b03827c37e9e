"""Everything that is checked and read before a model is loaded, the cheap checks first."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from acestep.adapters.files import read_metadata
from acestep.core.config import groups
from acestep.core.errors import ModelMismatch, TensorError
from acestep.core.events import ItemFailed, LogMessage
from acestep.core.files import require_space, storage_errors
from acestep.core.jobs import Context
from acestep.core.untrusted import read_file
from acestep.models.checkpoint import Checkpoint, check_checkpoint, encoder_fingerprint, find_checkpoint
from acestep.models.quantize import QUANTIZED
from acestep.tensors.manifest import Manifest, read_manifest
from acestep.tensors.record import check_fingerprint, decode_record
from acestep.training.configs import TrainingConfig, TrainJob
from acestep.training.data import ExampleSampler, StepPlan, TrainingSample, split
from acestep.training.distributed.placement import Placement, choose_placement, make_fabric
from acestep.training.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from acestep.training.evaluation.evaluator import Evaluator
from acestep.training.memory.spec import MemorySpec, memory_spec
from acestep.training.optim.loss_weightings import LOSS_WEIGHTS
from acestep.training.optim.optimizers import OPTIMIZERS, peak_lr
from acestep.training.silent_contexts import with_silent_contexts
from acestep.training.state.checkpoint import recorded_settings, require_resumable
from acestep.training.state.run_folder import ResumeSource, RunFolder, find_resume_source

LEAST_SPACE = 64 * 2**20  # bytes; the size of a checkpoint is known once the adapter exists
_CHANGEABLE = ("dropout",)  # adapter settings that a resumed run may change


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is ready to start: everything but the model."""

    job: TrainJob
    run: RunFolder
    checkpoint: Checkpoint
    device: torch.device
    dtype: torch.dtype
    fabric: Fabric
    processes: ProcessGroup
    samples: list[TrainingSample]
    held_out: list[TrainingSample]
    tag: tuple[str, str]  # trigger word and its position
    fixed: dict[str, Any]  # what a resumed run must have in common with its checkpoint
    source: ResumeSource | None
    memory: MemorySpec  # before the choices that depend on the free memory

    @property
    def training(self) -> TrainingConfig:
        return self.job.training

    @property
    def mu(self) -> float:
        return self.checkpoint.timestep_mu if self.training.timestep_mu is None else self.training.timestep_mu

    @property
    def sigma(self) -> float:
        return self.checkpoint.timestep_sigma if self.training.timestep_sigma is None else self.training.timestep_sigma

    @property
    def lr(self) -> float:
        return peak_lr(self.training.optimizer_type, self.training.learning_rate)

    @property
    def schedule(self) -> str:
        """The chosen one; optimizers that adapt their own learning rate need a constant one."""
        chosen = self.training.scheduler_type
        return "constant" if OPTIMIZERS[self.training.optimizer_type].adapts_lr and "constant" not in chosen else chosen

    @property
    def step_plan(self) -> StepPlan:
        return StepPlan(
            num_samples=len(self.samples),
            seed=self.training.seed,
            batch_size=min(self.training.batch_size, len(self.samples)),
            accumulation=self.training.gradient_accumulation_steps,
            epochs=self.training.max_epochs,
            max_steps=self.training.max_steps,
            devices=self.processes.world_size,
        )

    @property
    def example_sampler(self) -> ExampleSampler:
        weight, gamma = LOSS_WEIGHTS[self.training.loss_weighting].load(), self.training.snr_gamma
        return ExampleSampler(
            seed=self.training.seed,
            max_frames=self.training.max_latent_length,
            mu=self.mu,
            sigma=self.sigma,
            cfg_dropout=self.training.cfg_dropout_prob,
            weight=lambda t: weight(t, gamma),
        )

    @property
    def evaluator(self) -> Evaluator:
        return Evaluator(
            self.samples,
            self.held_out,
            seed=self.training.seed,
            max_frames=self.training.max_latent_length,
            mu=self.mu,
            sigma=self.sigma,
        )


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run reads before the model is loaded, checked against each other.

    Attributes:
        samples: all readable samples, also those that will be held out for validation.
        fixed: what a resumed run must have in common with its checkpoint.
    """

    checkpoint: Checkpoint
    manifest: Manifest
    samples: list[TrainingSample]
    fixed: dict[str, Any]


def read_inputs(job: TrainJob, source: ResumeSource | None, context: Context) -> Inputs:
    """Read and check the model, the tensors and what the run resumes from. Writes nothing but events.

    Raises:
        TrainingError: the run cannot resume with these settings.
        CheckpointError, AdapterError, TensorError, ModelMismatch.
    """
    checkpoint = find_checkpoint(job.checkpoint)
    check_checkpoint(checkpoint)
    manifest = read_manifest(job.tensor_dir)
    samples = read_samples(manifest, context)
    require_fit(samples, checkpoint, job.tensor_dir, context)
    samples = with_silent_contexts(samples, checkpoint, context)
    fixed = _fixed(job, checkpoint, samples)
    if source is not None and source.exact:
        if job.training.base_precision == "auto":  # the choice of this computer could be another one
            recorded = recorded_settings(source).get("base_precision")
            fixed["base_precision"] = recorded if recorded in QUANTIZED else "auto"
        require_resumable(source, fixed)
    elif source is not None:
        read_metadata(source.folder)
    return Inputs(checkpoint, manifest, samples, fixed)


def prepare(
    job: TrainJob, context: Context, fabric: Fabric | None = None, processes: ProcessGroup = SINGLE_PROCESS
) -> Prepared:
    """Find, read and check everything that does not need the model, and report the choices.

    Every one of the ``processes`` calls it, with the ``fabric`` that connects them.

    Raises:
        TrainingError: the folder already holds a run, or the run cannot resume with these settings.
        CheckpointError, AdapterError, TensorError, ModelMismatch, ConfigError, DiskFull, NotWritable.
    """
    run = RunFolder(job.out)
    placement = choose_placement(job)
    source = processes.broadcast(lambda: find_resume_source(job.resume, run))
    with storage_errors(run.root):
        run.root.mkdir(parents=True, exist_ok=True)
    require_space(run.root, LEAST_SPACE)
    inputs = read_inputs(job, source, context)
    checkpoint, found = inputs.checkpoint, inputs.samples
    samples, held_out = split(found, seed=job.training.seed, percent=job.training.validation_percent)
    device, dtype = torch.device(placement.device.value), placement.dtype.value
    prepared = Prepared(
        job=job,
        run=run,
        checkpoint=checkpoint,
        device=device,
        dtype=dtype,
        fabric=fabric or make_fabric(device, dtype),
        processes=processes,
        samples=samples,
        held_out=held_out,
        tag=_tag(inputs.manifest, found),
        fixed=inputs.fixed,
        source=source,
        memory=_memory(job, inputs, placement),
    )
    if processes.is_main:
        run.write_settings(job.model_dump(mode="json", include=set(groups(TrainJob))))
    context.emit(LogMessage(message=f"{checkpoint.name} on {device}: {placement.device.reason}"))
    context.emit(LogMessage(message=f"precision {str(dtype).removeprefix('torch.')}: {placement.dtype.reason}"))
    _report(prepared, context)
    return prepared


def _memory(job: TrainJob, inputs: Inputs, placement: Placement) -> MemorySpec:
    """What the memory of the run depends on."""
    shapes = [(len(s.record.target_latents), len(s.record.encoder_hidden_states)) for s in inputs.samples]
    return memory_spec(
        inputs.checkpoint.config,
        job.training,
        job.adapter,
        device=torch.device(placement.device.value).type,
        longest=max(frames for frames, _ in shapes),
        tokens=max(tokens for _, tokens in shapes),
        songs=len(shapes),
        bf16=placement.bf16,
        sharded=job.strategy == "fsdp",
    )


def read_samples(manifest: Manifest, context: Context) -> list[TrainingSample]:
    """All readable samples, in memory; unreadable ones are reported by name. Raises TensorError if none is readable."""
    for problem in manifest.problems:
        _warn(context, problem)
    samples = []
    for path in manifest.paths:
        context.stop_if_cancelled()
        try:
            samples.append(_read_sample(path, manifest.folder))
        except TensorError as error:
            context.emit(ItemFailed(item=path.name, message=str(error), hint=error.hint))
    if not samples:
        raise TensorError(
            f"none of the {len(manifest.paths)} files in {manifest.folder} can be used for training",
            hint="Preprocess the songs again.",
        )
    return sorted(samples, key=lambda sample: sample.name)  # independent of the order in the manifest


def _read_sample(path: Path, folder: Path) -> TrainingSample:
    try:
        data = read_file(path)
    except OSError as problem:
        why = problem.strerror or problem
        raise TensorError(f"{path} cannot be read: {why}", hint="Preprocess the song again.") from None
    name = path.relative_to(folder).as_posix()
    return TrainingSample(name, hashlib.sha256(data).hexdigest(), decode_record(data, path.name))


def require_fit(samples: Sequence[TrainingSample], checkpoint: Checkpoint, folder: Path, context: Context) -> None:
    """Raises ModelMismatch if the samples were preprocessed for another model."""
    for warning in check_fingerprint((sample.record for sample in samples), checkpoint):
        _warn(context, warning)
    width = checkpoint.config.get("encoder_hidden_size") or checkpoint.config["hidden_size"]
    for sample in samples:
        found = sample.record.encoder_hidden_states.shape[1]
        if found != width:
            raise ModelMismatch(
                f"{sample.name} in {folder} has conditions of width {found}, {checkpoint.name} takes {width}",
                hint="Preprocess the songs with the model that you want to train.",
            )


def _fixed(job: TrainJob, checkpoint: Checkpoint, samples: Sequence[TrainingSample]) -> dict[str, Any]:
    """What a resumed run must have in common with its checkpoint, under the names that users know."""
    training = job.training
    adapter = {f"{training.adapter_type}.{name}": value for name, value in job.adapter.model_dump().items()}
    content = "".join(sorted(f"{sample.name} {sample.digest}\n" for sample in samples))
    return {
        "model family": checkpoint.family,
        "model variant": checkpoint.variant,
        "model encoder": encoder_fingerprint(checkpoint),
        "songs": f"{len(samples)} ({hashlib.sha256(content.encode()).hexdigest()[:12]})",
        **{
            name: getattr(training, name)
            for name in (
                "adapter_type",
                "attention_type",
                "train_mlp",
                "base_precision",
                "optimizer_type",
                "seed",
                "validation_percent",
            )
        },
        **{name: value for name, value in adapter.items() if name.rpartition(".")[2] not in _CHANGEABLE},
    }


def _tag(manifest: Manifest, samples: Sequence[TrainingSample]) -> tuple[str, str]:
    """The trigger word and its position: the dataset's, else those of the first sample that has one."""
    for metadata in (manifest.metadata, *(sample.record.metadata for sample in samples)):
        if metadata.get("custom_tag"):
            return str(metadata["custom_tag"]), str(metadata.get("tag_position") or "prepend")
    return "", ""


def _report(prepared: Prepared, context: Context) -> None:
    """Report the dataset, and warn about settings that are overridden."""
    training, samples = prepared.training, prepared.samples
    minutes = sum(sample.record.duration_s for sample in samples) / 60
    tag = f"trigger word {prepared.tag[0]}" if prepared.tag[0] else "no trigger word"
    context.emit(LogMessage(message=f"{len(samples)} songs, {minutes:.1f} min, {tag}"))
    if prepared.held_out:
        names = ", ".join(sample.name.removesuffix(".pt") for sample in prepared.held_out)
        context.emit(LogMessage(message=f"held out for validation: {names}"))
    if (size := prepared.processes.world_size) > 1:
        context.emit(LogMessage(message=f"{size} devices share each step ({prepared.job.strategy})"))
        if prepared.step_plan.samples_per_step > len(samples):
            _warn(
                context,
                f"{size} devices could take {prepared.step_plan.samples_per_step} songs per step of {len(samples)}",
            )
    if training.gradient_checkpointing == "offload" and not prepared.memory.has_own_memory:
        _warn(context, f"gradient_checkpointing=offload saves nothing on {prepared.device}, which has no own memory")
    if prepared.job.samples.enabled and prepared.job.strategy == "fsdp":
        _warn(context, "The strategy fsdp makes no audio previews")
    if training.batch_size > len(samples):
        _warn(context, f"Batch size {training.batch_size} exceeds the dataset: using {len(samples)}")
    if prepared.schedule != training.scheduler_type:
        _warn(context, f"{training.optimizer_type} adapts its own learning rate: using {prepared.schedule}")
    if training.learning_rate not in (None, prepared.lr):
        _warn(context, f"{training.optimizer_type} adapts its own learning rate: using {prepared.lr}")


def _warn(context: Context, message: str) -> None:
    context.emit(LogMessage(message=message, warning=True))
