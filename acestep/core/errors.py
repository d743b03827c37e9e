"""Every error this program raises on purpose.

    AceStepError
    +-- ConfigError
    |   +-- UnknownName
    +-- AudioError
    +-- DatasetError
    +-- CheckpointError
    +-- TensorError
    |   +-- ModelMismatch
    +-- AdapterError
    +-- TrainingError
    |   +-- LossNotFinite
    +-- DownloadError
    +-- CaptionError
    |   +-- ServiceError
    |       +-- ServiceRefused
    +-- StorageError
    |   +-- DiskFull
    |   +-- NotWritable
    +-- MissingPackage
    +-- JobError
        +-- JobBusy
        +-- JobCancelled
        +-- WorkerCrashed

``str(error)`` says what happened, with the value and the file; ``error.hint`` says what to do next.
"""

from __future__ import annotations


class AceStepError(Exception):
    """Base class: something a user can read and act upon. Never shown with a traceback."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(AceStepError):
    """One or more settings are wrong. All problems are reported at once."""

    def __init__(self, problems: str | list[str], *, hint: str = "") -> None:
        self.problems = [problems] if isinstance(problems, str) else problems
        super().__init__("; ".join(self.problems), hint=hint)


class UnknownName(ConfigError):
    """A registry holds no entry of that name."""


class AudioError(AceStepError):
    """A sound file cannot be read, or holds nothing that can be used."""


class DatasetError(AceStepError):
    """Songs or labels are missing or malformed."""


class CheckpointError(AceStepError):
    """A model folder is missing, incomplete or damaged."""


class TensorError(AceStepError):
    """A preprocessed ``.pt`` file is missing, malformed or unsafe to read."""


class ModelMismatch(TensorError):
    """Tensors or an adapter belong to another model than the one in use."""


class AdapterError(AceStepError):
    """An adapter cannot be made, read or applied."""


class TrainingError(AceStepError):
    """Training cannot start or go on."""


class LossNotFinite(TrainingError):
    """The loss was NaN or infinite too often in a row."""


class DownloadError(AceStepError):
    """A model could not be fetched completely."""


class CaptionError(AceStepError):
    """A song got no usable description or lyrics."""


class ServiceError(CaptionError):
    """An online service did not answer, or not with what it was asked for."""


class ServiceRefused(ServiceError):
    """An online service will answer no request of this user: no key, a wrong one, no credit."""


class StorageError(AceStepError):
    """A file could not be written."""


class DiskFull(StorageError):
    """There is, or will be, too little room on the disk."""


class NotWritable(StorageError):
    """The folder or file is read-only for this user."""


class MissingPackage(AceStepError):
    """A chosen feature needs a package that is not installed or does not work here."""


class JobError(AceStepError):
    """A job could not run."""


class JobBusy(JobError):
    """Another job is at work, in this program or in this folder."""


class JobCancelled(JobError):
    """The user asked the job to stop. Control flow, not a failure."""


class WorkerCrashed(JobError):
    """The process of a job ended without saying why."""
