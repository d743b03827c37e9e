"""A training run in memory: the model with its adapter, the optimizer, and everything that a checkpoint stores."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from acestep.adapters.base import Adapter
from acestep.adapters.files import inject, load_adapter, load_weights_into, modules_outside_layers
from acestep.adapters.metadata import AdapterMetadata
from acestep.core.events import Event, LogMessage
from acestep.core.phases import PhaseProgress
from acestep.models.compiled import CompiledBlocks, missing_compiler
from acestep.models.device import empty_cache
from acestep.models.dit import AceStepDiT, run_eagerly
from acestep.models.load import load_dit, load_null_condition
from acestep.models.quantize import QUANTIZED, quantize
from acestep.training.compilation import use_if_equal
from acestep.training.data import TrainingSample, TrainingStep, collate, move, pad_condition, pin, seed_for
from acestep.training.distributed.placement import shard_layers
from acestep.training.evaluation.evaluator import Metrics
from acestep.training.flow_matching import Batch, FlowMatching
from acestep.training.loop import Progress
from acestep.training.memory.automatic import Choices, choose
from acestep.training.memory.free_memory import free_bytes
from acestep.training.optim.optimizers import make_optimizer
from acestep.training.prefetch import Draw, hold_on_device, prefetched, prefetching_pays
from acestep.training.prepare import Prepared
from acestep.training.state.best_model import BestTracker
from acestep.training.state.ema import ExponentialMovingAverage
from acestep.training.state.random_state import RandomState, seeded_generators
from acestep.training.state.run_folder import ADAPTER, STATE, ResumeSource
from acestep.training.state.tensor_tree import damaged_state, read_state

_RECORDED_SETTINGS = (
    "batch_size",
    "gradient_accumulation_steps",
    "optimizer_type",
    "max_latent_length",
    "ema_decay",
    "cfg_dropout_prob",
    "loss_weighting",
    "seed",
)


def _base(prepared: Prepared, precision: str) -> AceStepDiT:
    """The frozen decoder on the device, in the chosen precision. Raises CheckpointError, MissingPackage.

    With fsdp it stays on the CPU until it is sharded: as a whole it may not fit on one device.
    """
    if prepared.job.strategy == "fsdp":
        return load_dit(prepared.checkpoint, dtype=prepared.dtype)
    if precision not in QUANTIZED:
        return load_dit(prepared.checkpoint, device=prepared.device, dtype=prepared.dtype)
    # Quantized while it moves to the device: the CPU memory need not hold a copy of it.
    decoder = load_dit(prepared.checkpoint, dtype=prepared.dtype, mapped=prepared.device.type != "cpu")
    quantize(decoder, precision, device=prepared.device)
    return decoder


class Session:
    """A run between its first and its last step. ``close`` frees the device memory."""

    def __init__(self, prepared: Prepared, emit: Callable[[Event], None]) -> None:
        """Loads the model, injects the adapter, and restores the state that the run resumes from."""
        self.prepared, self._emit, training = prepared, emit, prepared.training
        self.fabric, self.processes = prepared.fabric, prepared.processes
        self.choices = self._choose()
        self._decoder = _base(prepared, self.choices.base_precision)
        self._null_condition = load_null_condition(prepared.checkpoint, device=prepared.device, dtype=torch.float32)
        if every := self.choices.spec.checkpoint_every:
            self._decoder.enable_gradient_checkpointing()
            self._decoder.checkpoint_every = every
            self._decoder.offload_inputs = self.choices.spec.offload
        own = set(self._decoder.parameters())
        self.adapter = self._injected()
        self._adapter_is_in = True
        if prepared.job.strategy == "fsdp":
            shard_layers(self._decoder, own, prepared.device)
        self._plain_optimizer = make_optimizer(
            training.optimizer_type, self.adapter.parameters(), lr=prepared.lr, weight_decay=training.weight_decay
        )
        self.ema = (
            ExponentialMovingAverage(self.adapter.parameters(), training.ema_decay) if training.ema_decay else None
        )
        if self.ema is not None:
            self._plain_optimizer.register_step_post_hook(self.ema.update)
        model = FlowMatching(self.adapter.network, self._null_condition)
        self.model, self.optimizer = self.fabric.setup(model, self._plain_optimizer)
        self.model.train()
        self.progress, self.tracker, self.random = Progress(), BestTracker(), RandomState(prepared.device)
        self.baseline_metrics: dict[str, float | None] = {}  # of the base model, without the adapter
        self._evaluator = prepared.evaluator
        self._samples = self._placed_samples()
        self._drawn: Draw = self._draw
        self._num_tokens = 0  # conditions are padded to this length
        self.compiled = False
        self._compile(model)
        if prepared.source is not None and prepared.source.exact:
            self._resume_from(prepared.source)
        elif prepared.source is not None:
            self._initialize_from(prepared.source)

    def _choose(self) -> Choices:
        """What depends on the free memory, the same in all processes: the device with the least decides."""
        prepared = self.prepared
        found = self.processes.all_gather(free_bytes(prepared.device, self.processes.launch.local_world_size))
        resumes = prepared.source is not None and prepared.source.exact
        choices = choose(
            prepared.memory,
            min((free for free in found if free is not None), default=None),
            recorded_base=prepared.fixed["base_precision"] if resumes else None,
        )
        for message in choices.messages:
            self._emit(LogMessage(message=message))
        if self.processes.is_main:
            prepared.run.record_choices(choices.recorded)
        return choices

    def _placed_samples(self) -> list[TrainingSample]:
        """The samples to train on, on the device if they fit there."""
        samples, device = self.prepared.samples, self.prepared.device
        if not self.choices.spec.dataset_on_device:
            return samples
        try:
            return hold_on_device(samples, device, PhaseProgress(self._emit, f"Copying the dataset to {device}"))
        except torch.OutOfMemoryError:
            self._emit(LogMessage(message=f"The dataset does not fit on {device}: it is read in advance", warning=True))
            empty_cache(str(device))
            return samples

    def _compile(self, model: FlowMatching) -> None:
        """Let the blocks of ``model`` run compiled, if that is requested and works on this computer."""
        prepared, spec = self.prepared, self.choices.spec
        requested, device = prepared.training.compile, prepared.device
        if requested == "off" or (requested == "auto" and device.type != "cuda"):
            return
        reason = "" if prepared.job.strategy == "ddp" else f"strategy {prepared.job.strategy} runs eagerly"
        if not (reason := reason or missing_compiler(device)):
            self._num_tokens = -(-spec.tokens // 8) * 8
            config = self._decoder.config
            blocks = CompiledBlocks(
                spec.batch_size,
                -(-spec.frames // config.patch_size),
                groups=config.num_attention_heads // config.num_key_value_heads,
            )
            lengths = [sample.record.num_frames for sample in prepared.samples]
            longest = sorted(range(len(lengths)), key=lambda index: -lengths[index])[: spec.batch_size]
            with seeded_generators(prepared.training.seed, device):
                batch = self.make_batch(longest, 0)

                def losses() -> Tensor:
                    with self.fabric.autocast():
                        return cast(Tensor, model(batch))

                reason = use_if_equal(self._decoder, blocks, self.adapter.parameters(), losses)
            blocks.on_failure = self._run_eagerly
        reasons = [each for each in self.processes.all_gather(reason) if each]
        self.compiled = not reasons
        if reasons:
            self._run_eagerly(reasons[0])

    def _run_eagerly(self, reason: str) -> None:
        """Use no compiled code from now on."""
        self._decoder.run_block, self._num_tokens, self.compiled = run_eagerly, 0, False
        self._emit(LogMessage(message=f"The model is not compiled: {reason}", warning=True))

    def _injected(self) -> Adapter:
        training, source = self.prepared.training, self.prepared.source
        also: list[str] = []
        if source is not None and (also := modules_outside_layers(source.folder)):
            self._emit(LogMessage(message=f"{source.folder} also adapts {', '.join(also)}: they are trained too"))
        adapter = inject(
            self._decoder,
            training.adapter_type,
            self.prepared.job.adapter,
            training.attention_type,
            training.train_mlp,
            seed=training.seed,
            also=also,
        )
        for note in adapter.notes:
            self._emit(LogMessage(message=note, warning=True))
        return adapter

    def make_batch(self, samples: list[int], epoch: int) -> Batch:
        """The training examples of the samples with these indices in ``epoch``, collated, on the device.

        The global generators, which adapter dropout draws from, are reseeded for each batch: what is dropped depends
        neither on the device nor on earlier batches.
        """
        names = [self.prepared.samples[i].name for i in samples]
        torch.manual_seed(seed_for(self.prepared.training.seed, epoch, "dropout", *names))
        return move(self._drawn(samples, epoch), self.prepared.device)

    @contextmanager
    def prefetching(self, steps: Iterable[TrainingStep]) -> Iterator[None]:
        """Within the block, a thread draws the batches of the next ``steps`` while the device computes.

        ``make_batch`` gives the same with and without it.
        """
        if self._samples is not self.prepared.samples or not prefetching_pays(self.prepared.device):
            yield
            return
        upcoming = ((batch, step.epoch) for step in steps for batch, _ in self.processes.shard(step.micro_batches))
        try:
            with prefetched(self._draw, upcoming) as self._drawn:
                yield
        finally:
            self._drawn = self._draw

    def _draw(self, samples: list[int], epoch: int) -> Batch:
        draw = self.prepared.example_sampler
        batch = collate([draw(self._samples[i], epoch) for i in samples])
        return pin(pad_condition(batch, self._num_tokens) if self._num_tokens else batch, self.prepared.device)

    def evaluate(self, stop_if_cancelled: Callable[[], None]) -> Metrics:
        """Metrics of the current adapter. Raises JobCancelled."""
        return self._evaluate(self.model, stop_if_cancelled)

    def evaluate_baseline(self, stop_if_cancelled: Callable[[], None]) -> None:
        """Fill ``baseline_metrics`` with the metrics of the base model. Raises JobCancelled."""
        self.adapter.set_strength(0.0)
        try:
            before = self.evaluate(stop_if_cancelled)
        finally:
            self.adapter.set_strength(1.0)
        self.baseline_metrics = {
            "fit_loss_before": before.fit_loss,
            "validation_loss_before": before.validation_loss,
            "zero_loss": self._evaluator.zero_loss(),
        }

    def evaluate_exported(self, stop_if_cancelled: Callable[[], None], name: str = ADAPTER) -> Metrics:
        """Metrics of the adapter in ``final/<name>``, loaded from its files as another program would. Ends training."""
        self._remove_adapter()
        exported = load_adapter(self._decoder, self.prepared.run.final / name)
        model = FlowMatching(self._decoder, self._null_condition)
        try:
            with self.fabric.autocast():
                return self._evaluate(model, stop_if_cancelled)
        finally:
            exported.remove()

    @property
    def num_evaluated(self) -> int:
        """The number of samples of one evaluation on this device."""
        return -(-self._evaluator.num_samples // self.processes.world_size)

    def _evaluate(self, model: nn.Module, stop_if_cancelled: Callable[[], None]) -> Metrics:
        return self._evaluator.evaluate(
            model, self.prepared.device, stop_if_cancelled=stop_if_cancelled, processes=self.processes
        )

    def state(self) -> dict[str, Any]:
        """Everything a bit-exact resume needs, as of the last step; the learning rate follows from the step."""
        return {
            "compiled": self.compiled,
            "fixed": self.prepared.fixed | {"base_precision": self.choices.base_precision},
            "progress": self.progress.state(),
            "tracker": self.tracker.state(),
            "figures": self.baseline_metrics,
            "grid": self._evaluator.grid,
            "adapter": self.adapter.state(),
            "average": None if self.ema is None else self.ema.state(),
            "optimizer": self._plain_optimizer.state_dict(),
            "random": self.random.captured,
            "loss_scale": self.fabric.strategy.precision.state_dict(),
        }

    def _resume_from(self, source: ResumeSource) -> None:
        """Restore a complete training state."""
        state = read_state(source.folder / STATE)
        with damaged_state(source.folder / STATE):
            self._restore(state)
        if self.prepared.training.auto_save_best_after and not (self.prepared.run.best / ADAPTER).is_dir():
            self.tracker.best, self.tracker.best_epoch = None, None  # it is in another folder

    def _restore(self, state: dict[str, Any]) -> None:
        """Restore the content of ``state``."""
        if (before := state.get("compiled", False)) != self.compiled:
            how = ("compiled", "eagerly") if before else ("eagerly", "compiled")
            message = f"The run was trained {how[0]} and continues {how[1]}, so it does not resume bit-exactly"
            self._emit(LogMessage(message=message, warning=True))
        self.adapter.load_state(state["adapter"])
        if self.ema is not None:
            self.ema.restart()
            if state.get("average"):
                self.ema.load_state(state["average"])
        self._plain_optimizer.load_state_dict(state["optimizer"])
        for group in self._plain_optimizer.param_groups:
            group["weight_decay"] = self.prepared.training.weight_decay
        self.fabric.strategy.precision.load_state_dict(state["loss_scale"])
        self.progress, self.tracker = Progress.from_state(state["progress"]), BestTracker.from_state(state["tracker"])
        if state["grid"] == self._evaluator.grid:  # otherwise they are evaluated again
            self.baseline_metrics = state["figures"]
        self.random.load(state["random"])

    def _initialize_from(self, source: ResumeSource) -> None:
        """Start from the weights of an adapter and its epoch count, with a new optimizer."""
        metadata = load_weights_into(self.adapter, source.folder)
        if self.ema is not None:
            self.ema.restart()
        max_epochs = self.prepared.training.max_epochs
        self.progress.epoch = source.starting_epoch(metadata.epochs, self.prepared.run, max_epochs)
        self.progress.step = dataclasses.replace(self.prepared.step_plan, epochs=self.progress.epoch).num_steps()
        message = f"{source.folder} holds adapter weights only: starting with a new optimizer"
        self._emit(LogMessage(message=f"{message}, after epoch {self.progress.epoch}", warning=True))

    def metadata(self) -> AdapterMetadata:
        """Metadata written into the adapter file."""
        prepared, training = self.prepared, self.prepared.training
        facts = {name: getattr(training, name) for name in _RECORDED_SETTINGS}
        return AdapterMetadata(
            base_model=prepared.checkpoint.name,
            family=prepared.checkpoint.family,
            variant=prepared.checkpoint.variant,
            trigger_word=prepared.tag[0],
            tag_position=prepared.tag[1],
            attention_type=training.attention_type,
            train_mlp=training.train_mlp,
            steps=self.progress.step,
            epochs=self.progress.epoch,
            dataset_hash=prepared.fixed["songs"],
            facts={
                **facts,
                "learning_rate": prepared.lr,
                "schedule": prepared.schedule,
                "songs": len(prepared.samples),
            },
        )

    def close(self) -> None:
        """Free the device memory."""
        self._remove_adapter()
        del self.model, self.optimizer, self._plain_optimizer, self._decoder
        gc.collect()
        empty_cache(str(self.prepared.device))

    def _remove_adapter(self) -> None:
        if self._adapter_is_in:
            self.adapter.remove()
            self._adapter_is_in = False
