"""Checks whether a training run can start, before its folder is created.

A run checks everything again when it starts: a check may be minutes old by then, and workers have none.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from acestep.adapters.base import Adapter
from acestep.adapters.files import inject, load_weights_into
from acestep.core.errors import JobBusy
from acestep.core.events import Event
from acestep.core.files import existing_parent, require_space, storage_errors
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import Context
from acestep.models.checkpoint import Checkpoint
from acestep.models.device import choose_devices
from acestep.models.load import empty_dit
from acestep.training.configs import TrainJob
from acestep.training.distributed.placement import require_splittable
from acestep.training.prepare import LEAST_SPACE, read_inputs
from acestep.training.state.checkpoint import usual_bytes
from acestep.training.state.run_folder import ResumeSource, RunFolder, find_resume_source


@dataclass(frozen=True)
class _WithoutLog(Context):
    """A context that writes no events, which the run reports itself, and ignores the requests to its previous job."""

    def emit(self, event: Event) -> None:
        pass

    def stop_if_cancelled(self) -> None:
        pass


def check_start(job: TrainJob) -> None:
    """Check the model, the tensors, the adapter, the output folder and what the run resumes from. Writes nothing.

    The weights of the model are not read, and no GPU is used.

    Raises:
        TrainingError: the folder already holds a run, or the run cannot resume with these settings.
        JobBusy: another process is using the folder.
        CheckpointError, TensorError, ModelMismatch, AdapterError, ConfigError, DiskFull, NotWritable, StorageError.
    """
    if JobFolder(job.out).locked:
        raise JobBusy(f"another process is using {job.out}", hint="Wait until it has finished, or stop it.")
    run = RunFolder(job.out)
    source = find_resume_source(job.resume, run)
    _require_writable(job.out)
    require_space(job.out, LEAST_SPACE)
    require_splittable(job)
    if job.device != "auto":  # to find the fastest one, PyTorch would allocate memory on it
        choose_devices(job.device, job.devices)
    inputs = read_inputs(job, source, _WithoutLog(job.out))
    adapter = _empty_adapter(job, inputs.checkpoint)
    if source is not None and not source.exact:
        _require_weights_fit(adapter, source, run, job.training.max_epochs)
    num_values = sum(parameter.numel() for parameter in adapter.parameters())
    require_space(job.out, usual_bytes(num_values, ema=job.training.ema_decay > 0))


def _require_writable(folder: Path) -> None:
    """Raises NotWritable, DiskFull, StorageError if nothing can be created in ``folder``, which may not exist yet."""
    with storage_errors(folder), tempfile.TemporaryFile(dir=existing_parent(folder)):
        pass


def _empty_adapter(job: TrainJob, checkpoint: Checkpoint) -> Adapter:
    """The adapter of the run on a model without weights. Raises AdapterError if its settings fit no layer."""
    training = job.training
    return inject(
        empty_dit(checkpoint),
        training.adapter_type,
        job.adapter,
        training.attention_type,
        training.train_mlp,
        seed=training.seed,
    )


def _require_weights_fit(adapter: Adapter, source: ResumeSource, run: RunFolder, max_epochs: int) -> None:
    """Raises AdapterError, ModelMismatch, TrainingError if the run cannot start from the weights of ``source``."""
    metadata = load_weights_into(adapter, source.folder)
    source.starting_epoch(metadata.epochs, run, max_epochs)
