"""The exceptions of this program.

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
    +-- GenerationError
    +-- DownloadError
    +-- CaptionError
    |   +-- ServiceError
    |       +-- ServiceRefused
    +-- StorageError
    |   +-- DiskFull
    |   +-- NotWritable
    +-- OutOfMemory
    +-- MissingPackage
    +-- JobError
        +-- JobBusy
        +-- JobCancelled
        +-- WorkerCrashed

``str(error)`` says what failed, with the value and the file; ``error.hint`` says what to do.
"""

from __future__ import annotations

import difflib
from typing import ClassVar

# Code of an earlier version -> current code.
_ALIASES = {"MemoryError": "OutOfMemory", "OutOfMemoryError": "OutOfMemory"}


class AceStepError(Exception):
    """Base class of errors that the user can fix. Never shown with a traceback.

    ``code`` is the name of the class in files, in JSON output and over HTTP. It stays when the class is renamed.
    ``subject`` is what the error is about where the code leaves it open: "adapter" if an adapter does not fit a model,
    "fp16" if a loss computed in it is not finite.
    """

    code: ClassVar[str] = "AceStepError"
    _classes: ClassVar[dict[str, type[AceStepError]]] = {}

    def __init_subclass__(cls) -> None:
        if "code" not in vars(cls) or cls.code in AceStepError._classes:
            raise TypeError(f"{cls.__name__} needs its own code")
        AceStepError._classes[cls.code] = cls

    def __init__(self, message: str, *, hint: str = "", subject: str = "") -> None:
        super().__init__(message)
        self.hint, self.subject = hint, subject


class ConfigError(AceStepError):
    """One or more settings are invalid. All problems are reported together."""

    code = "ConfigError"

    def __init__(self, problems: str | list[str], *, hint: str = "") -> None:
        self.problems = [problems] if isinstance(problems, str) else problems
        super().__init__("; ".join(self.problems), hint=hint)


class UnknownName(ConfigError):
    """A registry has no entry with this name."""

    code = "UnknownName"


class AudioError(AceStepError):
    """An audio file cannot be read or contains no usable audio."""

    code = "AudioError"


class DatasetError(AceStepError):
    """Samples or labels are missing or malformed."""

    code = "DatasetError"


class CheckpointError(AceStepError):
    """A model folder is missing, incomplete or damaged."""

    code = "CheckpointError"


class TensorError(AceStepError):
    """A preprocessed ``.pt`` file is missing, malformed or unsafe to read."""

    code = "TensorError"


class ModelMismatch(TensorError):
    """Tensors or an adapter belong to another base model than the one in use."""

    code = "ModelMismatch"


class AdapterError(AceStepError):
    """An adapter cannot be created, read or applied."""

    code = "AdapterError"


class TrainingError(AceStepError):
    """Training cannot start or continue."""

    code = "TrainingError"


class LossNotFinite(TrainingError):
    """The loss was NaN or infinite too often in a row."""

    code = "LossNotFinite"


class GenerationError(AceStepError):
    """The generated audio is not usable."""

    code = "GenerationError"


class DownloadError(AceStepError):
    """A model could not be downloaded completely."""

    code = "DownloadError"


class CaptionError(AceStepError):
    """A sample got no usable caption or lyrics."""

    code = "CaptionError"


class ServiceError(CaptionError):
    """An online service did not respond, or its response is not usable."""

    code = "ServiceError"


class ServiceRefused(ServiceError):
    """An online service rejects every request of this user: no API key, a wrong one, or no credit."""

    code = "ServiceRefused"


class StorageError(AceStepError):
    """A file could not be written."""

    code = "StorageError"


class DiskFull(StorageError):
    """The disk has too little free space."""

    code = "DiskFull"


class NotWritable(StorageError):
    """The folder or file is read-only for this user."""

    code = "NotWritable"


class OutOfMemory(AceStepError):
    """The device or the computer ran out of memory."""

    code = "OutOfMemory"


class MissingPackage(AceStepError):
    """A selected feature needs a package that is not installed or does not work here."""

    code = "MissingPackage"


class JobError(AceStepError):
    """A job could not run."""

    code = "JobError"


class JobBusy(JobError):
    """Another job is running, in this program or in this folder."""

    code = "JobBusy"


class JobCancelled(JobError):
    """The user stopped the job. Control flow, not a failure."""

    code = "JobCancelled"


class WorkerCrashed(JobError):
    """The process of a job exited unexpectedly."""

    code = "WorkerCrashed"


def error_class(code: str) -> type[AceStepError] | None:
    """The class of a code that was read from a file; None if it is not one of these classes, such as "KeyError"."""
    code = current_code(code)
    return AceStepError if code == AceStepError.code else AceStepError._classes.get(code)


def current_code(code: str) -> str:
    """The current name of a code; earlier versions used other names for some errors."""
    return _ALIASES.get(code, code)


def code_of(error: BaseException) -> str:
    """The name of ``error`` in files: its ``code``, or the class name of any other exception."""
    return error.code if isinstance(error, AceStepError) else type(error).__name__


def nearest_hint(name: str, known: list[str]) -> str:
    """``Did you mean 'x'?`` if a known name is similar, else all known names."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
