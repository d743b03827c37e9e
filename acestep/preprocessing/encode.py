"""Encoding the samples on one device, in one or two passes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

import torch
from loguru import logger

from acestep.core.errors import AceStepError, JobCancelled, JobError, StorageError, TensorError
from acestep.core.events import Event, LogMessage, PhaseStarted, Progressed, Saved
from acestep.models.text import MAX_LYRIC_TOKENS, MAX_PROMPT_TOKENS
from acestep.preprocessing.configs import PreprocessJob
from acestep.preprocessing.output import intermediate_path
from acestep.preprocessing.overlap import Loader, Writer, songs_ahead
from acestep.preprocessing.sample_sources import ReportFailure, SampleSource
from acestep.preprocessing.stages import (
    ConditionStage,
    Features,
    FeatureStage,
    LoadOptions,
    ModelMemory,
    SampleAudio,
    free_memory,
    load_sample_audio,
    read_features,
    write_features,
)
from acestep.tensors.record import TensorRecord

L = TypeVar("L")  # what is loaded for a sample
R = TypeVar("R")  # what is computed from it


class Reporter(Protocol):
    """Receives events and can cancel: the Context of a job, or the callback of a DatasetBuilder."""

    def emit(self, event: Event) -> None:
        """Called with each event, in the encoding thread."""

    def stop_if_cancelled(self) -> None:
        """Called between samples and inside of each. Raises JobCancelled to stop; encoded samples are kept."""


@dataclass(slots=True)
class Counter:
    """Progress of a pass: samples done so far, the total of all passes, and what follows the name of the sample."""

    done: int = 0
    total: int = 0
    note: str = ""


class Encoder:
    """Encodes samples to tensor files.

    Args:
        save: writes the record of a sample and returns the path of the file. Called in one background thread.
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
        self._save, self._report_failure = save, report_failure
        self.model_memory = ModelMemory()
        self._writer: Writer[SampleSource, Path | None] = Writer(lambda *_: None)

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
        with self._loader(samples, self._load_audio) as loader:  # decodes the first sample meanwhile
            self._reporter.emit(PhaseStarted(phase="Loading VAE, text encoder and condition encoder"))
            feature_stage = FeatureStage(self._load_options, self.model_memory)
            condition_stage = ConditionStage(self._load_options, self.model_memory)
            self._log_memory("VAE, text encoder and condition encoder")
            self._reporter.emit(PhaseStarted(phase=f"Encoding {samples[0].name}"))

            def encode(sample: SampleSource, audio: SampleAudio) -> TensorRecord:
                return condition_stage(sample, self._features(feature_stage, sample, audio))

            self._run(loader, encode, self._save, Counter(total=len(samples)))

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
            self._encode_features(pending, Counter(len(done), 2 * len(samples), " (pass 1)"), done)
        return [sample for sample in samples if sample.file in done]

    def _encode_features(self, samples: list[SampleSource], counter: Counter, done: set[str]) -> None:
        with self._loader(samples, self._load_audio) as loader:
            self._reporter.emit(PhaseStarted(phase="Loading VAE and text encoder"))
            feature_stage = FeatureStage(self._load_options, self.model_memory)
            self._log_memory("pass 1 of 2, VAE and text encoder")

            def write(sample: SampleSource, features: Features) -> None:
                write_features(intermediate_path(self._config.out, sample), sample, features)
                done.add(sample.file)

            self._run(loader, partial(self._features, feature_stage), write, counter)

    def _second_pass(self, samples: list[SampleSource], *, total: int) -> None:
        with self._loader(samples, self._read_features) as loader:
            self._reporter.emit(PhaseStarted(phase="Loading the condition encoder"))
            condition_stage = ConditionStage(self._load_options, self.model_memory)
            self._log_memory("pass 2 of 2, condition encoder")

            def write(sample: SampleSource, record: TensorRecord) -> Path:
                path = self._save(sample, record)
                intermediate_path(self._config.out, sample).unlink(missing_ok=True)
                return path

            self._run(loader, condition_stage, write, Counter(total - len(samples), total, " (pass 2)"))

    def _loader(self, samples: list[SampleSource], load: Callable[[SampleSource], L]) -> Loader[SampleSource, L]:
        return Loader(samples, load, ahead=songs_ahead(self._load_options.device))

    def _run(
        self,
        loader: Loader[SampleSource, L],
        compute: Callable[[SampleSource, L], R],
        write: Callable[[SampleSource, R], Path | None],
        counter: Counter,
    ) -> None:
        """Compute and write each sample of ``loader``. Stops between samples and inside of ``compute``."""
        with Writer(partial(self._report, counter)) as self._writer:
            for sample, loaded in loader:
                self._between_tiles()
                result = self._computed(sample, loaded, compute, write)
                self._writer.submit(sample, result)
                del loaded  # while the next sample is awaited

    def _computed(
        self,
        sample: SampleSource,
        loaded: Future[L],
        compute: Callable[[SampleSource, L], R],
        write: Callable[[SampleSource, R], Path | None],
    ) -> Callable[[], Path | None]:
        """What the writer calls: it writes the result, or raises the error of this sample, which it then reports.

        Cancellation, storage errors and out of memory end the whole job.
        """
        try:
            return partial(write, sample, compute(sample, loaded.result()))
        except (JobCancelled, StorageError):
            raise
        except torch.OutOfMemoryError:
            hint = "Use two-pass preprocessing, close other programs, or use the device cpu."
            raise JobError(f"{self._load_options.device} is out of memory at {sample.name}", hint=hint) from None
        except Exception as error:  # noqa: BLE001 - an error of one sample must not end the job
            return partial(_raise, error)

    def _report(self, counter: Counter, sample: SampleSource, written: Future[Path | None]) -> None:
        """Report a sample that is written or has failed. Raises StorageError, which ends the job."""
        path = None
        try:
            path = written.result()
        except StorageError:
            raise
        except AceStepError as error:
            message = str(error).removeprefix(str(sample.audio)).lstrip(" :")  # the report names the sample
            self._report_failure(sample.name, AceStepError(message, hint=error.hint))
        except Exception as error:  # noqa: BLE001 - an unexpected error of one sample must not end the job
            logger.exception("{} failed", sample.name)
            self._report_failure(sample.name, AceStepError(repr(error), hint="This is a bug. The log has the details."))
        if path:
            self._reporter.emit(Saved(path=str(path), role="tensor"))
        counter.done += 1
        self._reporter.emit(Progressed(done=counter.done, total=counter.total, note=sample.name + counter.note))

    def _between_tiles(self) -> None:
        self._writer.report_finished()
        self._reporter.stop_if_cancelled()

    def _load_audio(self, sample: SampleSource) -> SampleAudio:
        return load_sample_audio(sample, self._config.normalize, self._config.max_duration_s)

    def _read_features(self, sample: SampleSource) -> Features:
        path = intermediate_path(self._config.out, sample)
        if (features := read_features(path, sample)) is None:
            raise TensorError(f"the intermediate file {path.name} is missing", hint="Preprocess again.")
        return features

    def _features(self, feature_stage: FeatureStage, sample: SampleSource, audio: SampleAudio) -> Features:
        for remark in audio.remarks:
            self._log(remark, warning=True)
        features = feature_stage(sample, audio.samples, self._between_tiles)
        for label, states, limit in (
            ("caption", features.text_hidden_states, MAX_PROMPT_TOKENS),
            ("lyrics", features.lyric_hidden_states, MAX_LYRIC_TOKENS),
        ):
            if len(states) >= limit:
                self._log(f"{sample.name}: {label} truncated to the maximum of {limit} tokens", warning=True)
        return features

    def _log(self, message: str, *, warning: bool = False) -> None:
        self._reporter.emit(LogMessage(message=message, warning=warning))

    def _log_memory(self, phase: str) -> None:
        self._log(f"{phase}: {self.model_memory.bytes / 2**20:.1f} MiB of models in memory")


def _raise(error: Exception) -> NoReturn:
    raise error
