"""The dataset file that was saved or loaded: kept up to date with every edit."""

from __future__ import annotations

from pathlib import Path

from acestep.core.errors import StorageError
from acestep.core.files import sha256_of, storage_errors, write_bytes
from acestep.dataset.sample import Dataset
from acestep.dataset.store import write_dataset
from acestep.dataset.user_labels import UserLabels


def follow_file(user: UserLabels, path: Path) -> None:
    """From now on, keep the dataset file ``path`` up to date. Raises StorageError."""
    with storage_errors(path):
        user.dataset_file, user.dataset_digest = str(path), sha256_of(path)


def update_file(user: UserLabels, dataset: Dataset) -> str:
    """Write the dataset file, unless another program changed it. Returns why it was not written, "" if it was.

    What it contained before the first edit is kept as ``.bak``.
    """
    path = Path(user.dataset_file)
    if not user.dataset_file or not path.is_file():
        return ""
    try:
        with storage_errors(path):
            content, digest = path.read_bytes(), sha256_of(path)
        if digest != user.dataset_digest:
            return f"{path} was changed by another program. Save Dataset replaces it."
        backup = path.with_name(f"{path.name}.bak")
        if not backup.exists():
            write_bytes(backup, content)
        write_dataset(path, dataset)
        follow_file(user, path)
    except StorageError as error:
        return str(error)
    return ""
