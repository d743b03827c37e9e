"""The training job: prepare, load the model, train, export. It decides when to save and what to report."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.loggers.tensorboard import TensorBoardLogger

from acestep.core.errors import JobCancelled, LossNotFinite, OutOfMemory, StorageError, WorkerCrashed
from acestep.core.events import EpochLogged, LogMessage, PhaseStarted, Saved, Started, StepLogged
from acestep.core.jobs import Context
from acestep.core.phases import PhaseProgress
from acestep.models.load_progress import decoder_bytes, report_reading
from acestep.models.memory_limit import use_device
from acestep.models.process_group import ProcessGroup
from acestep.training.configs import TrainJob
from acestep.training.data import TrainingStep
from acestep.training.distributed.launch_workers import train_in_workers
from acestep.training.distributed.placement import choose_placement, make_fabric
from acestep.training.evaluation.audio_previews import AudioPreviews
from acestep.training.loop import StepReport, not_finite_loss_hint, train
from acestep.training.memory.monitor import MemoryMonitor
from acestep.training.optim.schedules import make_schedule
from acestep.training.prepare import Prepared, prepare
from acestep.training.session import Session
from acestep.training.state.best_model import first_tracked_epoch
from acestep.training.state.checkpoint import CheckpointWriter
from acestep.training.state.random_state import seeded_generators
from acestep.training.state.run_folder import ADAPTER, EMA_ADAPTER, checkpoint_name

_RESUME_HINT = "Resume with --resume auto."


def train_job(config: TrainJob, context: Context) -> dict[str, Any]:
    """Train an adapter, or resume its training. The result holds the metrics before and after, and the adapter's path.

    Raises:
        JobCancelled: the user stopped the run; the message names the checkpoint.
        LossNotFinite: after the last good state was saved.
        TrainingError, OutOfMemory, TensorError, CheckpointError, AdapterError, ConfigError, MissingPackage,
            StorageError.
    """
    launch = context.launch
    placement = choose_placement(config, launch)
    if config.devices > 1 and launch.world_size == 1:
        return train_in_workers(config, context)
    device = torch.device(placement.device.value)
    fabric = make_fabric(device, placement.dtype.value, launch=launch, strategy=config.strategy)
    processes = ProcessGroup(launch)
    with processes.fail_together():
        return _train(prepare(config, processes.context(context), fabric, processes), context)


def _train(prepared: Prepared, context: Context) -> dict[str, Any]:
    """``context`` belongs to this process alone: it waits for its own GPU and makes its own audio previews."""
    shared = prepared.processes.context(context)
    with use_device(str(prepared.device), "training", context):
        seed = prepared.training.seed
        loading = PhaseProgress(shared.emit, f"Loading {prepared.checkpoint.name}")
        with seeded_generators(seed, prepared.device):
            with report_reading(decoder_bytes(prepared.checkpoint), loading):
                session = Session(prepared, shared.emit)
            with closing(session):
                return _Run(session, shared, AudioPreviews(prepared.job.samples, session, context)).run_to_end()


class _Run:
    """The ``Callback`` of the loop: logs, evaluates, tracks the best model, saves checkpoints."""

    def __init__(self, session: Session, context: Context, previews: AudioPreviews) -> None:
        prepared, progress = session.prepared, session.progress
        self.session, self.context, self.training, self.progress = session, context, prepared.training, progress
        self.processes = prepared.processes
        self.total_steps = prepared.step_plan.num_steps(progress.epoch, progress.samples_done, progress.step)
        self.checkpoint_writer = CheckpointWriter(
            prepared.run,
            session.adapter,
            metadata=session.metadata,
            state=session.state,
            ema=session.ema,
            writes=self.processes.is_main,
        )
        self.previews = previews if self.processes.is_main and prepared.job.strategy != "fsdp" else None
        self.saved_step = progress.step if prepared.source is not None and prepared.source.exact else -1
        self.logger = TensorBoardLogger(
            prepared.run.root, name="logs", version=0, purge_step=progress.step + 1 if progress.step else None
        )
        self.memory = MemoryMonitor(prepared.device, context.emit)
        self.epoch_began_s = self.saved_at_s = time.monotonic()

    def run_to_end(self) -> dict[str, Any]:
        """Train to the last step and export the adapter; gives the job's result."""
        self.checkpoint_writer.require_space(3)  # the next checkpoint beside the previous one, and best and final
        self._report_start()
        try:
            with self.memory, self.save_on_exit():
                if not self.session.baseline_metrics:
                    self.session.evaluate_baseline(self._evaluating("Evaluating the base model"))
                    self._log_metrics(
                        self.session.baseline_metrics["fit_loss_before"],
                        self.session.baseline_metrics["validation_loss_before"],
                    )
                if not self.ended:
                    if self.previews:
                        self.previews.baseline()
                    self._train()
            return self._export()
        finally:
            self.logger.finalize("done")

    def _train(self) -> None:
        session, prepared = self.session, self.session.prepared
        schedule = make_schedule(
            prepared.schedule, total_steps=self.total_steps, warmup_steps=self.training.warmup_steps
        )

        def steps() -> Iterator[TrainingStep]:
            return prepared.step_plan.steps(self.progress.epoch, self.progress.samples_done)

        with session.prefetching(steps()):
            train(
                fabric=session.fabric,
                model=session.model,
                optimizer=session.optimizer,
                lr_at=lambda step: prepared.lr * schedule(step),
                steps=steps(),
                make_batch=session.make_batch,
                progress=self.progress,
                random=session.random,
                max_grad_norm=self.training.max_grad_norm,
                max_not_finite=self.training.nan_detection_max,
                callback=self,
                stop_if_cancelled=self.context.stop_if_cancelled,
                dtype=prepared.dtype,
                processes=self.processes,
            )

    @property
    def ended(self) -> bool:
        """Whether all steps are done, or the loss has not improved for ``early_stop_patience`` epochs."""
        patience = self.training.early_stop_patience
        return self.progress.step >= self.total_steps or 0 < patience <= self.session.tracker.patience

    def after_step(self, report: StepReport) -> bool:
        self.memory.tell()
        if report.epoch_loss is not None:
            self._after_epoch(report, report.epoch_loss)
        else:
            self._log_step(report)
        if self.ended or self._checkpoint_is_due(ends_epoch=report.epoch_loss is not None):
            self._save()
        if report.epoch_loss is not None:
            if self.previews:
                self.previews.after_epoch(last=self.ended)
            self.epoch_began_s = time.monotonic()
        return self.ended

    def _after_epoch(self, report: StepReport, loss: float) -> None:
        tracker, epoch, wanted = self.session.tracker, self.progress.epoch, self.training.auto_save_best_after
        is_best = tracker.update(epoch, loss, start=first_tracked_epoch(wanted, self.training.max_epochs))
        self._log_step(report)
        if is_best and wanted:
            self.context.emit(Saved(path=str(self.checkpoint_writer.best()), role="best"))
        seconds = time.monotonic() - self.epoch_began_s
        fit_loss, validation_loss = self._evaluate_if_due()
        self.logger.log_metrics({"train/epoch_loss": loss}, self.progress.step)
        self.context.emit(
            EpochLogged(
                epoch=epoch,
                epochs=self.training.max_epochs,
                step=self.progress.step,
                seconds=seconds,
                loss=loss,
                moving_average=tracker.moving_average,
                best=tracker.best,
                best_epoch=tracker.best_epoch,
                fit_loss=fit_loss,
                validation_loss=validation_loss,
            )
        )

    def _evaluate_if_due(self) -> tuple[float | None, float | None]:
        """Fit and validation loss; None after the last epoch, when the exported adapter is evaluated instead."""
        every = self.training.measure_every_n_epochs
        if not every or self.progress.epoch % every or self.ended:
            return None, None
        metrics = self.session.evaluate(self._evaluating("Evaluating"))
        self._log_metrics(metrics.fit_loss, metrics.validation_loss)
        return metrics.fit_loss, metrics.validation_loss

    def _log_step(self, report: StepReport) -> None:
        step, progress = self.progress.step, self.progress
        if step % self.training.log_every_n_steps and step not in (1, self.total_steps):
            return
        epoch = progress.epoch + (report.epoch_loss is None)
        self.logger.log_metrics({"train/loss": report.loss, "train/lr": report.lr}, step)
        self.context.emit(
            StepLogged(
                step=step,
                epoch=epoch,
                loss=report.loss,
                lr=report.lr,
                grad_norm=report.grad_norm,
                epochs=self.training.max_epochs,
                steps=self.total_steps,
            )
        )

    def _evaluating(self, phase: str) -> Callable[[], None]:
        """Reports the phase and, from sample to sample, its progress; to be called before each sample."""
        report, total = PhaseProgress(self.context.emit, phase), self.session.num_evaluated
        done = -1

        def before_sample() -> None:
            nonlocal done
            self.context.stop_if_cancelled()
            done += 1
            report(done, total)

        return before_sample

    def _log_metrics(self, fit_loss: float | None, validation_loss: float | None) -> None:
        found = {"fit_loss": fit_loss, "validation_loss": validation_loss}
        known = {key: value for key, value in found.items() if value is not None}
        self.logger.log_metrics(known, self.progress.step)
        if not all(map(math.isfinite, known.values())):
            dtype = self.session.prepared.dtype
            message = f"an evaluation gave a loss that is not finite, computed in {str(dtype).removeprefix('torch.')}"
            self.context.emit(LogMessage(message=f"{message}. {not_finite_loss_hint(dtype)}", warning=True))

    def _checkpoint_is_due(self, *, ends_epoch: bool) -> bool:
        epochs, steps = self.training.save_every_n_epochs, self.training.save_every_n_steps
        minutes, waited_s = self.training.save_every_n_minutes, time.monotonic() - self.saved_at_s
        by_epoch = ends_epoch and epochs > 0 and self.progress.epoch % epochs == 0
        by_clock = 0 < 60 * minutes <= waited_s
        return by_epoch or by_clock or (steps > 0 and self.progress.step % steps == 0)

    def _save(self) -> str:
        """Save a checkpoint unless this step has one; gives its folder."""
        name = checkpoint_name(self.progress.epoch, self.progress.step, ends_epoch=self.progress.samples_done == 0)
        folder = self.checkpoint_writer.run.checkpoints / name
        if self.saved_step != self.progress.step:
            self.context.emit(PhaseStarted(phase="Saving a checkpoint"))
            self.checkpoint_writer.checkpoint(name)
            self.saved_step, self.saved_at_s = self.progress.step, time.monotonic()
            self.context.emit(Saved(path=str(folder), role="checkpoint"))
            self._remove_older_than(folder)
        return str(folder)

    def _remove_older_than(self, folder: Path) -> None:
        keep = self.training.keep_last_n_checkpoints
        if not keep or not self.processes.is_main:
            return
        try:
            removed = self.checkpoint_writer.run.remove_older(folder, keep)
        except StorageError as problem:  # not a reason to end the run
            self.context.emit(LogMessage(message=f"An older checkpoint was not removed: {problem}", warning=True))
        else:
            if removed:
                self.context.emit(
                    LogMessage(message=f"Removed {', '.join(removed)}; keeping the last {keep} checkpoints")
                )

    @contextmanager
    def save_on_exit(self) -> Iterator[None]:
        """Save a checkpoint whatever ends the block, unless an optimizer step was interrupted."""
        try:
            yield
        except JobCancelled:
            raise JobCancelled(f"Everything is saved in {self._save()}. {_RESUME_HINT}") from None
        except StorageError as problem:  # another save would fail too
            kept = self.checkpoint_writer.run.latest_checkpoint()
            raise type(problem)(
                str(problem), hint=f"{problem.hint} Last saved checkpoint: {kept or 'none'}."
            ) from problem
        except BaseException as problem:
            if not self.progress.between_steps:
                raise
            where = f"The last good state is in {self._save()}."
            if isinstance(problem, LossNotFinite | WorkerCrashed):
                if where not in problem.hint:  # another process may have sent its error
                    problem.hint = f"{problem.hint} {where}"
                raise
            if isinstance(problem, torch.OutOfMemoryError):
                raise OutOfMemory(
                    f"the device ran out of memory at step {self.progress.step + 1}",
                    hint=f"Try gradient_checkpointing=on, a smaller batch_size or max_latent_length. {where}",
                ) from None
            raise

    def _export(self) -> dict[str, Any]:
        """Write ``final/`` and evaluate the files that were written."""
        session, tracker = self.session, self.session.tracker
        final = self.checkpoint_writer.final(
            best_known=tracker.best is not None and self.training.auto_save_best_after > 0
        )
        self.processes.all_gather(None)  # wait until every process can read it
        self.context.emit(Saved(path=str(final), role="final"))
        metrics = session.evaluate_exported(self._evaluating("Evaluating the final adapter"))
        self._log_metrics(metrics.fit_loss, metrics.validation_loss)
        before = session.baseline_metrics
        message = f"fit loss {before['fit_loss_before']:.4f} before, {metrics.fit_loss:.4f} now"
        if metrics.validation_loss is not None:
            message += (
                f"; validation loss {before['validation_loss_before']:.4f} before, {metrics.validation_loss:.4f} now"
            )
        self.context.emit(LogMessage(message=message))
        ema_metrics = self._evaluate_ema(final)
        return {
            **before,
            "fit_loss": metrics.fit_loss,
            "validation_loss": metrics.validation_loss,
            **ema_metrics,
            "best": None if tracker.best is None else {"loss": tracker.best, "epoch": tracker.best_epoch},
            "epochs": self.progress.epoch,
            "steps": self.progress.step,
            "stopped_early": self.progress.step < self.total_steps,
            "songs": len(session.prepared.samples),
            "held_out": [sample.name for sample in session.prepared.held_out],
            "gpu_memory": self.memory.summary,
            "adapter": str(final / ADAPTER),
        }

    def _evaluate_ema(self, final: Path) -> dict[str, Any]:
        """Metrics of the EMA adapter, if one was exported."""
        if not (final / EMA_ADAPTER).is_dir():
            return {}
        metrics = self.session.evaluate_exported(self.context.stop_if_cancelled, EMA_ADAPTER)
        self.context.emit(LogMessage(message=f"EMA weights: fit loss {metrics.fit_loss:.4f}"))
        return {"fit_loss_ema": metrics.fit_loss, "validation_loss_ema": metrics.validation_loss}

    def _report_start(self) -> None:
        progress = self.progress
        if self.session.prepared.source is not None:
            source = self.session.prepared.source.folder
            self.context.emit(LogMessage(message=f"Resuming from {source} (step {progress.step}/{self.total_steps})"))
        self.context.emit(Started(job="train", total=self.total_steps, unit="steps"))
