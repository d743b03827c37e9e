"""The dataset file: JSON that ace-lora-trainer and Side-Step also read and write."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from loguru import logger
from pydantic import ValidationError

from acestep.core.errors import DatasetError
from acestep.core.files import read_json, write_json
from acestep.core.paths import is_network_path
from acestep.dataset.identity import sample_id
from acestep.dataset.labels import FIELDS
from acestep.dataset.sample import Dataset, DatasetMetadata, Sample

# Labels that have a form of their own; earlier versions and other programs saved them as they were written.
_CONVERTED = {"keyscale", "timesignature", "language"}


def read_dataset(path: Path) -> Dataset:
    """Read a dataset file, of this program, ace-lora-trainer or Side-Step. A plain list of samples is accepted too.

    Missing keys get defaults and unknown keys are kept. Audio paths become absolute: relative paths are resolved
    against the folder of the file, and missing audio files are searched for there under the same subfolders. Ids that
    are missing, not unique or unsafe as a file name are replaced. Network paths (``\\\\host\\share``) are not opened:
    their files are searched for in the folder too.

    Raises:
        DatasetError: the file is missing, is not JSON, has no samples, or has invalid values (all are listed).
    """
    data = read_json(path, error=DatasetError, hint="Scan the audio folder again.")
    return parse_dataset(data, path, path.resolve().parent)


def parse_dataset(data: Any, path: Path, folder: Path) -> Dataset:
    """Parse the content of a dataset file.

    Args:
        data: the decoded JSON.
        path: the file it was read from, for messages.
        folder: the folder that relative audio paths are resolved against.

    Raises:
        DatasetError: see ``read_dataset``.
    """
    if isinstance(data, list):
        data = {"samples": data}
    if not isinstance(data, dict) or not isinstance(data.get("samples"), list):
        raise DatasetError(f"{path} is not a dataset: it has no list of samples", hint="Scan the audio folder again.")
    problems: list[str] = []
    metadata = _parse(DatasetMetadata, data.get("metadata") or {}, "metadata", problems)
    samples = [_parse(Sample, item, f"sample {number}", problems) for number, item in enumerate(data["samples"], 1)]
    if problems:
        raise DatasetError(f"{path}: {'; '.join(problems)}", hint="Correct the file, or scan the audio folder again.")
    if not samples:
        raise DatasetError(f"{path} contains no samples", hint="Scan a folder with audio files.")
    dataset = Dataset(metadata=metadata, samples=samples)
    _normalize_samples(dataset.samples, folder)
    return dataset


def write_dataset(path: Path, dataset: Dataset) -> None:
    """Write the dataset file atomically.

    Raises:
        DiskFull, NotWritable, StorageError: the file cannot be written.
    """
    write_json(path, dataset_to_dict(dataset))


def dataset_to_dict(dataset: Dataset) -> dict[str, Any]:
    """The content of the dataset file, with the current time and number of samples."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    metadata = dataset.metadata.model_copy(update={"created_at": now, "num_samples": len(dataset.samples)})
    samples = [sample.model_dump(mode="json") for sample in dataset.samples]
    return {"metadata": metadata.model_dump(mode="json"), "samples": samples}


def _parse(model: Any, data: Any, where: str, problems: list[str]) -> Any:
    present = {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data
    if model is Sample and isinstance(present, dict):
        present = _usable(present, where)
    try:
        return model.model_validate(present)
    except ValidationError as error:
        name = f" ({data['filename']})" if isinstance(data, dict) and data.get("filename") else ""
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "it"
            text = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            problems.append(f"{where}{name}: {key} {text}, not {item['input']!r:.50}")
        return model()


def _usable(data: dict[str, Any], where: str) -> dict[str, Any]:
    """A sample without the values that the model does not know, such as an odd key; each is logged."""
    usable = dict(data)
    for name in _CONVERTED & usable.keys():
        try:
            FIELDS[name](usable[name])
        except ValueError as error:
            logger.warning("{}: {} {}, not {!r:.50}; ignored", where, name, error, usable.pop(name))
    return usable


def _normalize_samples(samples: list[Sample], folder: Path) -> None:
    """Make audio paths absolute, set file names, set whether samples are labeled, make ids unique."""
    ids: set[str] = set()
    for sample in samples:
        path = sample.audio_path
        sample.audio_path = _resolve_audio_path(path or sample.filename, folder)
        sample.filename = sample.filename or sample.name
        stated = sample.labeled or "labeled" not in sample.model_fields_set
        sample.labeled = stated and sample.has_caption
        if not sample.id or sample.id.casefold() in ids:
            sample.id = sample_id(path or sample.filename, ids)
        ids.add(sample.id.casefold())


def _resolve_audio_path(path: str, folder: Path) -> str:
    """The current path of an audio file. A path that is not found is returned for use in messages."""
    if not path:
        return path
    given = Path(path)
    parts = [part for part in PurePosixPath(path.replace("\\", "/")).parts if part not in ("/", "//", "..", ".")]
    tails = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    if is_network_path(path):
        return str(next(filter(_is_file, tails), folder / (parts[-1] if parts else "")))
    candidates = [folder / given, given.absolute(), *tails]  # an absolute path replaces the folder
    is_absolute = given.is_absolute() or PureWindowsPath(path).is_absolute()
    not_found = path if is_absolute else folder / given
    return str(next((candidate for candidate in candidates if _is_file(candidate)), not_found))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # not a valid path on this system
        return False
