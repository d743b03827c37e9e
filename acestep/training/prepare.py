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
from acestep.core.phases import PhaseProgress
from acestep.models.checkpoint import Checkpoint, check_checkpoint, encoder_fingerprint, find_checkpoint
from acestep.models.process_group import SINGLE_PROCESS, ProcessGroup
from acestep.models.quantize import QUANTIZED
from acestep.tensors.index import TensorIndex
from acestep.tensors.manifest import Manifest, read_manifest
from acestep.tensors.record import LATENT_RATE_HZ, check_fingerprint
from acestep.tensors.tensor_file import TensorFile
from acestep.training.configs import TrainingConfig, TrainJob
from acestep.training.data import ExampleSampler, StepPlan, TrainingSample, split
from acestep.training.distributed.placement import Placement, choose_placement, make_fabric
from acestep.training.evaluation.evaluator import Evaluator
from acestep.training.memory.spec import MemorySpec, memory_spec
from acestep.training.optim.loss_weightings import LOSS_WEIGHTS
from acestep.training.optim.optimizers import OPTIMIZERS, peak_lr
from acestep.training.silent_contexts import with_silent_contexts
from acestep.training.state.checkpoint import recorded_settings, require_resumable
from acestep.training.state.run_folder import ResumeSource, RunFolder, find_resume_source

LEAST_SPACE = 64 * 2**20  # bytes; the size of a checkpoint is known once the adapter exists
_FILES_BETWEEN_CHECKS = 16  # for a stop request, about which several processes have to agree
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
        fixed["max_validation_songs"] = recorded_settings(source).get("max_validation_songs", 0)  # of earlier versions
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
    placement = choose_placement(job, processes.launch)
    source = processes.broadcast(lambda: find_resume_source(job.resume, run))
    with storage_errors(run.root):
        run.root.mkdir(parents=True, exist_ok=True)
    require_space(run.root, LEAST_SPACE)
    inputs = read_inputs(job, source, context)
    checkpoint, found = inputs.checkpoint, inputs.samples
    samples, held_out = _split(job, inputs, context)
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


def _split(job: TrainJob, inputs: Inputs, context: Context) -> tuple[list[TrainingSample], list[TrainingSample]]:
    """(training, held out) samples, as when the run began."""
    training, most = job.training, inputs.fixed["max_validation_songs"]
    by_settings, found = (
        split(inputs.samples, seed=training.seed, percent=training.validation_percent, most=limit)
        for limit in (training.max_validation_songs, most)
    )
    if len(by_settings[1]) != len(found[1]):
        _warn(context, f"The run began with max_validation_songs={most}: still holding out {len(found[1])} songs")
    return found


def _memory(job: TrainJob, inputs: Inputs, placement: Placement) -> MemorySpec:
    """What the memory of the run depends on."""
    shapes = [(sample.record.num_frames, sample.record.num_tokens) for sample in inputs.samples]
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
        dataset_bytes=sum(sample.record.num_bytes for sample in inputs.samples),
    )


def read_samples(manifest: Manifest, context: Context) -> list[TrainingSample]:
    """All readable samples; unreadable ones are reported by name. Raises TensorError if none is readable.

    The tensors stay in their files. New and changed files are read and checked, what is known of the others is in the
    index of the folder.
    """
    for problem in manifest.problems:
        _warn(context, problem)
    index, samples = TensorIndex.read(manifest.folder), []
    progress = PhaseProgress(context.emit, "Checking the tensors")
    try:
        for number, path in enumerate(manifest.paths, start=1):
            if number % _FILES_BETWEEN_CHECKS == 1:
                context.stop_if_cancelled()
            name = path.relative_to(manifest.folder).as_posix()
            try:
                facts = index.facts(name)
            except TensorError as error:
                context.emit(ItemFailed(item=path.name, message=str(error), hint=error.hint))
            else:
                samples.append(TrainingSample(name, facts.sha256, TensorFile(path, facts)))
            progress(number, len(manifest.paths))
    finally:
        problem = index.write()
    if problem:
        _warn(context, f"All tensors will be checked again at the next start: {problem}")
    if not samples:
        raise TensorError(
            f"none of the {len(manifest.paths)} files in {manifest.folder} can be used for training",
            hint="Preprocess the songs again.",
        )
    return sorted(samples, key=lambda sample: sample.name)  # independent of the order in the manifest


def require_fit(samples: Sequence[TrainingSample], checkpoint: Checkpoint, folder: Path, context: Context) -> None:
    """Raises ModelMismatch if the samples were preprocessed for another model."""
    for warning in check_fingerprint((sample.record for sample in samples), checkpoint):
        _warn(context, warning)
    width = checkpoint.config.get("encoder_hidden_size") or checkpoint.config["hidden_size"]
    for sample in samples:
        found = sample.record.width
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
                "max_validation_songs",
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
    minutes = sum(sample.record.num_frames for sample in samples) / LATENT_RATE_HZ / 60
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
