"""The preprocessing pipeline: skips samples that are up to date, encodes the rest, keeps the manifest current.

Each tensor file is written atomically and the manifest is rewritten after it, so the job can be interrupted at any
time. The next run encodes only the missing samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from acestep.audio.files import SAMPLE_RATE_HZ
from acestep.core.errors import AceStepError, DatasetError, JobCancelled
from acestep.core.events import Event, ItemFailed, LogMessage, PhaseStarted, Saved, Started
from acestep.core.phases import PhaseProgress
from acestep.core.workers import MergedEvents
from acestep.dataset.labels import Problem
from acestep.dataset.sample import Dataset, DatasetMetadata
from acestep.models.checkpoint import check_checkpoint, check_vae_and_text_encoder, find_checkpoint
from acestep.models.device import choose_devices, choose_dtype, encoder_dtype
from acestep.models.process_group import SINGLE_PROCESS, ProcessGroup
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.encode import Encoder, Reporter
from acestep.preprocessing.multi_device import Share, encode_on_devices
from acestep.preprocessing.output import OutputFolder
from acestep.preprocessing.sample_sources import (
    SampleSource,
    apply_overrides,
    iter_sample_sources,
    short_name,
    up_to_date,
)
from acestep.preprocessing.stages import LoadOptions

SAMPLE_BYTES = 5 * 2**20  # about the size of four minutes of audio in bf16; an intermediate file has the same size


def preprocess(
    dataset: Dataset,
    root: Path,
    config: PreprocessJob,
    reporter: Reporter,
    problems: Iterable[Problem] = (),
    *,
    folder: Path | None = None,
    processes: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Encode the samples of ``dataset`` into ``config.out``.

    Args:
        root: the folder that relative audio paths are relative to.
        problems: files that the scan skipped. They are reported and listed with the samples that fail here.
        folder: the job folder, which holds the folders of worker processes. Default: ``config.folder``.
        processes: those that share the samples; this is rank 0, the others run ``encode_launched_share``.

    Returns:
        A JSON object: ``out`` (folder), ``mode``, the numbers of samples ``songs`` (total), ``ready``, ``made``
        (encoded now) and ``up_to_date``, ``failed`` (list of item, message and hint), ``unused_files`` (tensor files
        that are not in the manifest) and ``peak_model_bytes`` (peak memory of the models).

    Raises:
        CheckpointError: the base model is missing or incomplete. Nothing is written.
        ConfigError: the device or dtype is not available. Nothing is written.
        DatasetError: no sample can be used.
        JobError: the device is out of memory.
        DiskFull, NotWritable, StorageError: a file cannot be written. Finished samples are kept.
        JobCancelled: the job was cancelled. Finished samples are kept.
    """
    checkpoint = find_checkpoint(config.checkpoint)
    check_checkpoint(checkpoint)
    check_vae_and_text_encoder(checkpoint)
    device, *_ = choose_devices(config.device, config.devices)
    dtype = choose_dtype(device.value, config.dtype)
    reporter.emit(LogMessage(message=f"device {device.value}: {device.reason}"))
    load_options = LoadOptions(checkpoint, device.value, encoder_dtype(dtype.value))
    reason = dtype.reason if load_options.dtype == dtype.value else "encoders and VAE overflow in fp16"
    reporter.emit(LogMessage(message=f"precision {load_options.dtype_name}: {reason}"))
    dataset = apply_overrides(dataset, config)
    pipeline = _Pipeline(dataset, config, load_options, reporter, folder or config.folder, processes)
    try:
        pipeline.collect(root.resolve(), problems)
        pipeline.encode()
    except JobCancelled:
        ready, total = len(pipeline.output.ready), len(pipeline.output.samples)
        raise JobCancelled(f"{ready} of {total} samples are encoded; start again to encode the rest") from None
    finally:
        pipeline.output.close()
    return pipeline.finish()


class _Pipeline:
    """One execution of preprocessing: the output folder, failures so far and peak memory."""

    def __init__(
        self,
        dataset: Dataset,
        config: PreprocessJob,
        load_options: LoadOptions,
        reporter: Reporter,
        folder: Path,
        processes: ProcessGroup,
    ) -> None:
        self._dataset, self._config, self._load_options, self._reporter = dataset, config, load_options, reporter
        self._folder, self._processes = folder, processes
        self._peak_bytes = 0
        self._failed: list[dict[str, str]] = []
        self._up_to_date = 0
        self.output = OutputFolder(
            config.out,
            metadata=dataset.metadata.model_dump(mode="json", include=set(DatasetMetadata.model_fields)),
            preprocessing={
                "max_duration": config.max_duration_s,
                "target_sample_rate": SAMPLE_RATE_HZ,
                "genre_ratio": dataset.metadata.genre_ratio,
                "audio_normalization": config.normalize,
                "model_checkpoint": load_options.checkpoint.name,
                **({"mode": "two_pass"} if config.two_pass else {}),
            },
        )

    def collect(self, root: Path, problems: Iterable[Problem]) -> None:
        """Collect the samples to encode and those that are up to date. Raises DatasetError if none can be used."""
        for problem in problems:
            self._report_failure(short_name(problem.path, root), DatasetError(problem.message, hint=problem.hint))
        config, options = self._config, self._load_options
        sources = iter_sample_sources(
            self._dataset, root, config, options.checkpoint, options.dtype_name, self._report_failure
        )
        for sample in sources:
            self._reporter.stop_if_cancelled()
            self.output.samples.append(sample)
            if details := up_to_date(config.out, sample):
                self.output.ready[sample.file] = details
        if not self.output.samples:
            raise self._none_usable()
        self._up_to_date = len(self.output.ready)
        if self._up_to_date:
            self._log(f"{self._up_to_date} of {len(self.output.samples)} samples are up to date")

    def encode(self) -> None:
        """Encode the samples that are missing or out of date."""
        pending, passes = self.output.pending, 2 if self._config.two_pass else 1
        self.output.prepare(len(pending) * SAMPLE_BYTES * passes)
        unit = "songs" if passes == 1 else "song passes"
        own = pending[:: self._processes.world_size]
        self._reporter.emit(Started(job="preprocess", total=len(own) * passes, unit=unit))
        if self._processes.world_size > 1:
            self._encode_in_processes(pending)
        elif pending and self._config.devices > 1:
            self._encode_on_devices(pending, total=len(pending) * passes)
        else:
            self._encode_here(pending)
        if self._config.two_pass:
            self.output.remove_intermediates()

    def _encode_here(self, samples: list[SampleSource]) -> None:
        if not samples:
            return
        encoder = Encoder(
            self._config,
            self._load_options,
            self._reporter,
            save=self.output.save,
            report_failure=self._report_failure,
        )
        encoder.encode(samples)
        self._peak_bytes = encoder.model_memory.peak_bytes

    def _encode_in_processes(self, pending: list[SampleSource]) -> None:
        """Encode every n-th sample here and the others in the other processes of a launcher; wait for them."""
        count = self._processes.world_size
        self._log(f"{count} processes share {len(pending)} samples; the progress is that of the first process")
        try:
            self._processes.broadcast(lambda: pending)
            self._encode_here(pending[::count])
            shares = self._processes.all_gather(Share([]))
        except JobCancelled:
            self.output.add_finished()
            raise
        self.output.add_finished()
        for share in shares:
            self._peak_bytes = max(self._peak_bytes, share.peak_model_bytes)
            for name, error in share.failed:
                self._report_failure(name, error)

    def _encode_on_devices(self, pending: list[SampleSource], *, total: int) -> None:
        """One worker process per device writes tensor files; this process writes the manifest."""
        num_devices = min(self._config.devices, len(pending))
        self._reporter.emit(PhaseStarted(phase=f"Encoding {len(pending)} samples on {num_devices} devices"))
        events = MergedEvents(self._on_worker_event, total)
        results = encode_on_devices(self._config, pending, self._folder, events)
        self._peak_bytes = max(result["peak_model_bytes"] for result in results)

    def _on_worker_event(self, event: Event) -> None:
        """Forward an event of a worker process; add the files it wrote to the manifest."""
        if isinstance(event, ItemFailed):
            self._report_failure(event.item, AceStepError(event.message, hint=event.hint))
            return
        if isinstance(event, Saved):
            self.output.add_existing(Path(event.path).name)
        self._reporter.emit(event)

    def finish(self) -> dict[str, Any]:
        """Write the final manifest and return the result of ``preprocess``. Raises DatasetError if it is empty."""
        output = self.output
        if not output.ready:
            raise self._none_usable()
        output.write_manifest()
        output.write_index(PhaseProgress(self._reporter.emit, "Checking the tensors"))
        if unused := output.unused():
            names = ", ".join(unused[:5])
            reason = "because their samples were removed or failed"
            self._log(f"{len(unused)} files in {output.folder} are unused {reason}: {names}", warning=True)
        return {
            "out": str(output.folder),
            "mode": "two_pass" if self._config.two_pass else "standard",
            "songs": len(self._dataset.samples),
            "ready": len(output.ready),
            "made": len(output.ready) - self._up_to_date,
            "up_to_date": self._up_to_date,
            "failed": self._failed,
            "unused_files": unused,
            "peak_model_bytes": self._peak_bytes,
        }

    def _report_failure(self, name: str, error: AceStepError) -> None:
        self._failed.append({"item": name, "message": str(error), "hint": error.hint})
        self._reporter.emit(ItemFailed(item=name, message=str(error), hint=error.hint))

    def _none_usable(self) -> DatasetError:
        reasons = "; ".join(f"{item['item']}: {item['message']}" for item in self._failed[:3])
        hints = dict.fromkeys(item["hint"] for item in self._failed if item["hint"])
        total = len(self._dataset.samples)
        return DatasetError(f"none of {total} samples can be used ({reasons})", hint=" ".join(list(hints)[:2]))

    def _log(self, message: str, *, warning: bool = False) -> None:
        self._reporter.emit(LogMessage(message=message, warning=warning))
