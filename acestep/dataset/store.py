"""The dataset file: JSON that the existing trainer and Side-Step read and write too (SPEC 1.1, INTEROP F 2.4)."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pydantic import ValidationError

from acestep.core.errors import DatasetError
from acestep.core.files import read_json, write_json
from acestep.dataset.identity import sample_id
from acestep.dataset.sample import Dataset, DatasetMetadata, Sample


def read_dataset(path: Path) -> Dataset:
    """The dataset in ``path``: ours, the existing trainer's or Side-Step's, a bare list of songs too.

    Missing keys get their defaults, unknown ones are kept. Audio paths come back absolute: relative ones start from
    the file's folder; a song that is no longer where it was is looked for beside the file, under the same
    sub-folders. Ids are made where they are missing, unfit for a file name or not unique.

    Raises:
        DatasetError: no such file, no JSON, no songs, or values that make no sense (all of them are named).
    """
    data = read_json(path, error=DatasetError, hint="Scan the audio folder again.")
    return dataset_of(data, path, path.resolve().parent)


def dataset_of(data: Any, path: Path, folder: Path) -> Dataset:
    """The dataset in ``data``, which stood in the file ``path``; relative audio paths start from ``folder``.

    Raises:
        DatasetError: as ``read_dataset``.
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
        raise DatasetError(f"{path} holds no songs", hint="Scan a folder with audio files.")
    dataset = Dataset(metadata=metadata, samples=samples)
    _settle(dataset.samples, folder)
    return dataset


def write_dataset(path: Path, dataset: Dataset) -> None:
    """Write ``dataset`` whole or not at all.

    Raises:
        DiskFull, NotWritable, StorageError.
    """
    write_json(path, content_of(dataset))


def content_of(dataset: Dataset) -> dict[str, Any]:
    """What the file of ``dataset`` holds, with the time and the number of songs of now."""
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    metadata = dataset.metadata.model_copy(update={"created_at": now, "num_samples": len(dataset.samples)})
    samples = [sample.model_dump(mode="json") for sample in dataset.samples]
    return {"metadata": metadata.model_dump(mode="json"), "samples": samples}


def _parse(kind: Any, data: Any, where: str, problems: list[str]) -> Any:
    given = {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        name = f" ({data['filename']})" if isinstance(data, dict) and data.get("filename") else ""
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"]) or "it"
            text = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            problems.append(f"{where}{name}: {key} {text}, not {item['input']!r:.50}")
        return kind()


def _settle(samples: list[Sample], folder: Path) -> None:
    """Absolute audio paths, file names, labelled only with a caption, ids that are unique file names everywhere."""
    taken: set[str] = set()
    for sample in samples:
        told = sample.audio_path
        sample.audio_path = _locate(told or sample.filename, folder)
        sample.filename = sample.filename or sample.name
        sample.labeled = sample.labeled and sample.has_caption
        if not sample.id or sample.id.casefold() in taken:
            sample.id = sample_id(told or sample.filename, taken)
        taken.add(sample.id.casefold())


def _locate(told: str, folder: Path) -> str:
    """Where the audio file is now; a path that leads nowhere is kept, so that messages can name it."""
    if not told:
        return told
    given = Path(told)
    parts = [part for part in PurePosixPath(told.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    tails = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    candidates = [folder / given, given.absolute(), *tails]  # an absolute path replaces the folder
    foreign = given.is_absolute() or PureWindowsPath(told).is_absolute()
    return str(next((path for path in candidates if _is_file(path)), told if foreign else folder / given))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a path that this system cannot have
        return False
