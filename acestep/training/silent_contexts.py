"""Silent contexts: built from the silence latents of the model instead of read, and put in place of songs.

Preprocessing stores the same silence as context in every file. With "Preprocess For: LoKr", the ACE-Step app stores the
latents of the song instead, where generation has silence. A model trained with them copies the context and learns
nothing that generation could use.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from acestep.core.errors import CheckpointError
from acestep.core.events import LogMessage
from acestep.core.jobs import Context
from acestep.models.checkpoint import Checkpoint
from acestep.models.condition import context_latents
from acestep.models.load import load_silence_latent
from acestep.tensors.tensor_file import TensorFile
from acestep.training.data import TrainingSample


def with_silent_contexts(
    samples: Sequence[TrainingSample], checkpoint: Checkpoint, context: Context
) -> list[TrainingSample]:
    """The samples with a shared silent context where their file holds exactly that, or the song itself.

    Raises:
        CheckpointError: a context must be replaced, and ``checkpoint`` has no silence latents.
    """
    files = [sample.record for sample in samples if isinstance(sample.record, TensorFile)]
    songs = [sample.name for sample in samples if _holds_song(sample)]
    try:
        silence = load_silence_latent(checkpoint)
    except CheckpointError:
        if songs:
            raise
        return list(samples)
    if songs:
        message = (
            f"The context of {len(songs)} of {len(samples)} songs holds the song itself (preprocessed for LoKr by the "
            f"ACE-Step app), such as {songs[0]}: it is replaced by silence, as in generation"
        )
        context.emit(LogMessage(message=message, warning=True))
    shared = {dtype: _shared_context(files, silence, dtype) for dtype in {_dtype(file) for file in files}}
    digests = {dtype: _digests(shared[dtype], {file.num_frames for file in files}) for dtype in shared}

    def silenced(sample: TrainingSample) -> TrainingSample:
        file = sample.record
        if not isinstance(file, TensorFile):
            return sample
        dtype = _dtype(file)
        is_silent = digests[dtype][file.num_frames] == file.facts.context_sha256
        silent = is_silent or file.facts.song_context
        return dataclasses.replace(sample, record=file.with_silence(shared[dtype])) if silent else sample

    return [silenced(sample) for sample in samples]


def _holds_song(sample: TrainingSample) -> bool:
    return isinstance(sample.record, TensorFile) and sample.record.facts.song_context


def _dtype(file: TensorFile) -> torch.dtype:
    return file.facts.context.torch_dtype


def _shared_context(files: Iterable[TensorFile], silence: Tensor, dtype: torch.dtype) -> Tensor:
    """[longest T, 2C]: silence as preprocessing stores it; that of a shorter song is the beginning of it."""
    return context_latents(silence, max(file.num_frames for file in files)).to(dtype)


def _digests(shared: Tensor, lengths: Iterable[int]) -> dict[int, str]:
    """The SHA-256 of the first rows of ``shared`` for each length, in one pass."""
    found, hasher, done = {}, hashlib.sha256(), 0
    rows = shared.contiguous().view(torch.uint8).numpy()
    for length in sorted(lengths):
        hasher.update(rows[done:length].data)
        found[length], done = hasher.copy().hexdigest(), length
    return found
