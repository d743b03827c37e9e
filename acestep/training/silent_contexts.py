"""Replace contexts that hold the song itself.

With "Preprocess For: LoKr", the ACE-Step app stores the latents of the song as context, where generation has silence.
A model trained with them copies the context and learns nothing that generation could use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from acestep.core.events import LogMessage
from acestep.core.jobs import Context
from acestep.models.checkpoint import Checkpoint
from acestep.models.condition import context_latents
from acestep.models.load import load_silence_latent
from acestep.tensors.manifest import PREPROCESS_MODE, SONG_CONTEXT_MODE
from acestep.tensors.record import LATENT_CHANNELS, TensorRecord
from acestep.training.data import TrainingSample


def with_silent_contexts(
    samples: Sequence[TrainingSample], checkpoint: Checkpoint, context: Context
) -> list[TrainingSample]:
    """The samples with silence as context where it is the song itself, as this program's preprocessing makes it.

    Raises:
        CheckpointError: a context must be replaced, and ``checkpoint`` has no silence latents.
    """
    names = [sample.name for sample in samples if has_song_context(sample.record)]
    if not names:
        return list(samples)
    silence = load_silence_latent(checkpoint)
    message = (
        f"The context of {len(names)} of {len(samples)} songs holds the song itself (preprocessed for LoKr by the "
        f"ACE-Step app), such as {names[0]}: it is replaced by silence, as in generation"
    )
    context.emit(LogMessage(message=message, warning=True))
    return [
        dataclasses.replace(sample, record=_silenced(sample.record, silence)) if sample.name in names else sample
        for sample in samples
    ]


def has_song_context(record: TensorRecord) -> bool:
    """Whether the context of ``record`` holds the song: according to its metadata, or because the latents are equal."""
    source = record.context_latents[:, :LATENT_CHANNELS]
    return record.metadata.get(PREPROCESS_MODE) == SONG_CONTEXT_MODE or torch.equal(source, record.target_latents)


def _silenced(record: TensorRecord, silence: torch.Tensor) -> TensorRecord:
    replaced = context_latents(silence, len(record.target_latents)).to(record.context_latents.dtype)
    return dataclasses.replace(record, context_latents=replaced)
