"""The progress of loading a model, in bytes of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from acestep.models.checkpoint import Checkpoint, tensor_infos

_on_read: ContextVar[Callable[[int], None] | None] = ContextVar("on_read", default=None)


@contextmanager
def report_reading(total: int, report: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``report(done, total)`` after each tensor that this thread loads within the block; both in bytes."""
    done = 0

    def on_read(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        report(min(done, total), total)

    token = _on_read.set(on_read)
    try:
        yield
    finally:
        _on_read.reset(token)


def count_read(num_bytes: int) -> None:
    """Called by the functions that load weights."""
    if (on_read := _on_read.get()) is not None:
        on_read(num_bytes)


def decoder_bytes(checkpoint: Checkpoint) -> int:
    """The size of the decoder's weights in the files of a checkpoint. Raises CheckpointError."""
    return _weights(checkpoint, "decoder.")


def pipeline_bytes(checkpoint: Checkpoint) -> int:
    """The size of everything that generation loads. Raises CheckpointError."""
    weights = _weights(checkpoint, "decoder.", "encoder.")
    return weights + folder_bytes(checkpoint.text_encoder_folder) + folder_bytes(checkpoint.vae_folder)


def folder_bytes(folder: Path) -> int:
    """The size of the safetensors files in ``folder``."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _weights(checkpoint: Checkpoint, *prefixes: str) -> int:
    return sum(tensor.end - tensor.start for tensor in tensor_infos(checkpoint, *prefixes).values())
