"""Encoding samples one by one on one device, in one or two passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from loguru import logger

from acestep.core.errors import AceStepError, JobCancelled, JobError, StorageError, TensorError
from acestep.core.events import Event, LogMessage, PhaseStarted, Progressed, Saved
from acestep.models.text import MAX_LYRIC_TOKENS, MAX_PROMPT_TOKENS
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.output import intermediate_path
from acestep.preprocessing.sample_sources import ReportFailure, SampleSource
from acestep.preprocessing.stages import (
    ConditionStage,
    Features,
    FeatureStage,
    LoadOptions,
    ModelMemory,
    SampleAudio,
    free_memory,
    prefetch_audio,
    read_features,
    write_features,
)
from acestep.tensors.record import TensorRecord


class Reporter(Protocol):
    """Receives events and can cancel: the Context of a job, or the callback of a DatasetBuilder."""

    def emit(self, event: Event) -> None:
        """Called with each event, in the encoding thread."""

    def stop_if_cancelled(self) -> None:
        """Called between two samples. Raises JobCancelled to stop; samples that are already encoded are kept."""


class Encoder:
    """Encodes samples to tensor files.

    Args:
        save: writes the record of a sample and returns the path of the file.
        report_failure: called with the name of each sample that fails, and the error.
    """

    def __init__(
        self,
        config: PreprocessJob,
        load_options: LoadOptions,
        reporter: Reporter,
        *,
        save: Callable[[SampleSource, TensorRecord], Path],
        report_failure: ReportFailure,
    ) -> None:
        self._config, self._load_options, self._reporter = config, load_options, reporter
        self._write, self._report_failure = save, report_failure
        self.model_memory = ModelMemory()

    def encode(self, samples: list[SampleSource]) -> None:
        """Encode all ``samples``. A sample that cannot be encoded is reported and skipped.

        Raises:
            CheckpointError: a model cannot be loaded.
            JobCancelled: the job was cancelled.
            JobError: the device is out of memory.
            StorageError: a file cannot be written.
        """
        (self._in_two_passes if self._config.two_pass else self._in_one_pass)(samples)

    def _in_one_pass(self, samples: list[SampleSource]) -> None:
        self._reporter.emit(PhaseStarted(phase="Loading VAE, text encoder and condition encoder"))
        feature_stage = FeatureStage(self._load_options, self.model_memory)
        condition_stage = ConditionStage(self._load_options, self.model_memory)
        self._log_memory("VAE, text encoder and condition encoder")
        self._reporter.emit(PhaseStarted(phase=f"Encoding {samples[0].name}"))
        for number, (sample, audio) in enumerate(self._load_audio(samples), start=1):
            with self._sample_errors(sample):
                self._save(sample, condition_stage(sample, self._features(feature_stage, sample, audio)))
            self._reporter.emit(Progressed(done=number, total=len(samples), note=sample.name))

    def _in_two_passes(self, samples: list[SampleSource]) -> None:
        with_features = self._first_pass(samples)
        free_memory(self._load_options.device)
        self._log_memory("pass 1 finished, models freed")
        if with_features:
            self._second_pass(with_features, total=2 * len(samples))

    def _first_pass(self, samples: list[SampleSource]) -> list[SampleSource]:
        """Returns the samples whose features are on disk, from this pass or from an interrupted one."""
        out = self._config.out
        done = {sample.file for sample in samples if read_features(intermediate_path(out, sample), sample)}
        pending = [sample for sample in samples if sample.file not in done]
        if pending:
            self._reporter.emit(PhaseStarted(phase="Loading VAE and text encoder"))
            feature_stage = FeatureStage(self._load_options, self.model_memory)
            self._log_memory("pass 1 of 2, VAE and text encoder")
        for number, (sample, audio) in enumerate(self._load_audio(pending), start=len(done) + 1):
            with self._sample_errors(sample):
                features = self._features(feature_stage, sample, audio)
                write_features(intermediate_path(out, sample), sample, features)
                done.add(sample.file)
            self._reporter.emit(Progressed(done=number, total=2 * len(samples), note=f"{sample.name} (pass 1)"))
        return [sample for sample in samples if sample.file in done]

    def _second_pass(self, samples: list[SampleSource], *, total: int) -> None:
        self._reporter.emit(PhaseStarted(phase="Loading the condition encoder"))
        condition_stage = ConditionStage(self._load_options, self.model_memory)
        self._log_memory("pass 2 of 2, condition encoder")
        for number, sample in enumerate(samples, start=total - len(samples) + 1):
            self._reporter.stop_if_cancelled()
            path = intermediate_path(self._config.out, sample)
            with self._sample_errors(sample):
                features = read_features(path, sample)
                if features is None:
                    raise TensorError(f"the intermediate file {path.name} is missing", hint="Preprocess again.")
                self._save(sample, condition_stage(sample, features))
            path.unlink(missing_ok=True)
            self._reporter.emit(Progressed(done=number, total=total, note=f"{sample.name} (pass 2)"))

    def _load_audio(self, samples: list[SampleSource]) -> Iterator[tuple[SampleSource, Future[SampleAudio]]]:
        for sample, audio in prefetch_audio(samples, self._config.normalize, self._config.max_duration_s):
            self._reporter.stop_if_cancelled()
            yield sample, audio

    def _features(self, feature_stage: FeatureStage, sample: SampleSource, audio: Future[SampleAudio]) -> Features:
        loaded = audio.result()
        for remark in loaded.remarks:
            self._log(remark, warning=True)
        features = feature_stage(sample, loaded.samples)
        for label, states, limit in (
            ("caption", features.text_hidden_states, MAX_PROMPT_TOKENS),
            ("lyrics", features.lyric_hidden_states, MAX_LYRIC_TOKENS),
        ):
            if len(states) >= limit:
                self._log(f"{sample.name}: {label} truncated to the maximum of {limit} tokens", warning=True)
        return features

    def _save(self, sample: SampleSource, record: TensorRecord) -> None:
        path = self._write(sample, record)
        self._reporter.emit(Saved(path=str(path), role="tensor"))

    @contextmanager
    def _sample_errors(self, sample: SampleSource) -> Iterator[None]:
        """Reports errors of this sample. Cancellation, storage errors and out of memory end the whole job."""
        try:
            yield
        except (JobCancelled, StorageError):
            raise
        except torch.OutOfMemoryError:
            hint = "Use two-pass preprocessing, close other programs, or use the device cpu."
            raise JobError(f"{self._load_options.device} is out of memory at {sample.name}", hint=hint) from None
        except AceStepError as error:
            message = str(error).removeprefix(str(sample.audio)).lstrip(" :")  # the report names the sample
            self._report_failure(sample.name, AceStepError(message, hint=error.hint))
        except Exception as error:  # noqa: BLE001 - an unexpected error of one sample must not end the job
            logger.exception("{} failed", sample.name)
            self._report_failure(sample.name, AceStepError(repr(error), hint="This is a bug. The log has the details."))

    def _log(self, message: str, *, warning: bool = False) -> None:
        self._reporter.emit(LogMessage(message=message, warning=warning))

    def _log_memory(self, phase: str) -> None:
        self._log(f"{phase}: {self.model_memory.bytes / 2**20:.1f} MiB of models in memory")
