"""The two stages of encoding a sample, and the memory of their models.

    audio and text  --FeatureStage-->  Features  --ConditionStage-->  TensorRecord

Standard preprocessing keeps the models of both stages in memory. Two-pass preprocessing runs the first stage on all
samples, frees its models, then loads the second. Both modes run the same code, so their files are identical.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from acestep.audio.files import SAMPLE_RATE_HZ, load_audio
from acestep.audio.loudness import normalize
from acestep.core.errors import TensorError
from acestep.core.files import write_bytes
from acestep.core.untrusted import is_file, read_file
from acestep.models import load
from acestep.models.checkpoint import Checkpoint
from acestep.models.condition import context_latents, encode_condition
from acestep.models.device import empty_cache, not_finite_hint
from acestep.models.text import format_lyrics, format_prompt
from acestep.models.torch_archive import unusual
from acestep.models.vae import encode_audio, load_vae_beside
from acestep.models.vae_encoder import TileBatch
from acestep.preprocessing.sample_sources import SampleSource
from acestep.tensors.record import TensorRecord, deserialize, serialize


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Which base model to load, on which device and in which dtype (see ``encoder_dtype``)."""

    checkpoint: Checkpoint
    device: str
    dtype: torch.dtype

    @property
    def dtype_name(self) -> str:
        """The dtype without "torch.", for example "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class SampleAudio:
    """Audio [2, S] at 48 kHz, and what was wrong with its file."""

    samples: Tensor
    remarks: list[str]


@dataclass(frozen=True, slots=True)
class Features:
    """Output of the first stage, on the CPU. W is the width of the text encoder."""

    target_latents: Tensor  # [T, C]
    text_hidden_states: Tensor  # [L_text, W]
    lyric_hidden_states: Tensor  # [L_lyrics, W]
    duration: int  # encoded audio in whole seconds


class ModelMemory:
    """Measures the memory of loaded models through weak references, so freed models are not counted."""

    def __init__(self) -> None:
        self._models: list[weakref.ref[nn.Module]] = []
        self.peak_bytes = 0

    def track(self, *models: nn.Module) -> None:
        """Include ``models`` until they are freed."""
        self._models += [weakref.ref(model) for model in models]
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    @property
    def bytes(self) -> int:
        """Current size of all parameters and buffers in bytes."""
        alive = [model for ref in self._models if (model := ref()) is not None]
        return sum(t.numel() * t.element_size() for model in alive for t in (*model.parameters(), *model.buffers()))


class FeatureStage:
    """VAE and text encoder: encodes audio to latents, and prompt and lyrics to hidden states."""

    def __init__(self, load_options: LoadOptions, model_memory: ModelMemory) -> None:
        """Load the models. Raises CheckpointError."""
        checkpoint, device, dtype = load_options.checkpoint, load_options.device, load_options.dtype
        self._dtype = dtype
        self._vae = load_vae_beside(checkpoint, device=device, dtype=dtype)
        self._tile_batch = TileBatch()
        self._text = load.load_text_encoder(checkpoint, device=device, dtype=dtype)
        model_memory.track(self._vae, self._text.model)

    @torch.no_grad()
    def __call__(self, sample: SampleSource, audio: Tensor, stop_if_cancelled: Callable[[], None]) -> Features:
        """Encode ``audio`` [2, S] at 48 kHz (see ``load_sample_audio``) and the text of ``sample``.

        Raises AudioError, TensorError for NaN or infinity, and what ``stop_if_cancelled`` raises within a tile.
        """
        seconds = audio.shape[1] / SAMPLE_RATE_HZ
        labels = sample.metadata
        prompt = format_prompt(
            sample.text,
            bpm=labels["bpm"],
            timesignature=labels["timesignature"],
            keyscale=labels["keyscale"],
            duration_s=seconds,
        )
        latents = encode_audio(
            self._vae, audio, seed=sample.encode_seed, batch=self._tile_batch, stop_if_cancelled=stop_if_cancelled
        )
        text = self._text.encode_prompt(prompt)
        lyrics = self._text.embed_lyrics(format_lyrics(sample.lyrics, sample.language))
        return Features(
            target_latents=_finite(latents, "latents of the audio", self._dtype),
            text_hidden_states=_finite(text, "hidden states of the caption", self._dtype),
            lyric_hidden_states=_finite(lyrics, "embeddings of the lyrics", self._dtype),
            duration=int(seconds),
        )


class ConditionStage:
    """The condition encoder and the silence latents of the base model: turns features into a tensor record."""

    def __init__(self, load_options: LoadOptions, model_memory: ModelMemory) -> None:
        """Load the models. Raises CheckpointError."""
        checkpoint, dtype = load_options.checkpoint, load_options.dtype
        self._device, self._dtype = load_options.device, dtype
        self._encoder = load.load_condition_encoder(checkpoint, device=self._device, dtype=dtype)
        self._silence = load.load_silence_latent(checkpoint, device=self._device, dtype=dtype)
        model_memory.track(self._encoder)

    @torch.no_grad()
    def __call__(self, sample: SampleSource, features: Features) -> TensorRecord:
        """The record of ``sample``: latents [T, C] and condition [L, D]. Raises TensorError for NaN or infinity."""
        text = features.text_hidden_states.to(self._device)
        lyrics = features.lyric_hidden_states.to(self._device)
        condition = encode_condition(self._encoder, text, lyrics, self._silence)
        return TensorRecord(
            target_latents=features.target_latents,
            context_latents=context_latents(self._silence, features.target_latents.shape[0]).cpu(),
            encoder_hidden_states=_finite(condition, "condition", self._dtype),
            metadata={**sample.metadata, "duration": features.duration},
        )


def _finite(encoded: Tensor, what: str, dtype: torch.dtype) -> Tensor:
    """``encoded`` on the CPU. Raises TensorError if it contains NaN or infinite values."""
    encoded = encoded.cpu()
    if torch.isfinite(encoded).all():
        return encoded
    others = "Check the audio file and the labels, and download the model again."
    raise TensorError(
        f"the {what} contain NaN or infinite values, computed in {str(dtype).removeprefix('torch.')}",
        hint=not_finite_hint(dtype, "--dtype fp32 (Precision)", others),
    )


def free_memory(device: str) -> None:
    """Return memory to the device after the last reference to a stage is gone."""
    gc.collect()
    empty_cache(device)


def load_sample_audio(sample: SampleSource, mode: str, max_duration_s: int) -> SampleAudio:
    """Load the audio of a sample, truncated to ``max_duration_s`` and normalized. Raises AudioError."""
    remarks: list[str] = []
    audio = load_audio(sample.audio, max_duration_s=max_duration_s, report=remarks.append)
    return SampleAudio(normalize(audio, mode), remarks)


def write_features(path: Path, sample: SampleSource, features: Features) -> None:
    """Write the intermediate file of pass 1. Raises DiskFull, NotWritable, StorageError."""
    content = {
        "target_latents": features.target_latents,
        "text_hidden_states": features.text_hidden_states,
        "lyric_hidden_states": features.lyric_hidden_states,
        "metadata": {"content_hash": sample.content_hash, "duration": features.duration},
    }
    write_bytes(path, serialize(content))


def read_features(path: Path, sample: SampleSource) -> Features | None:
    """Read the intermediate file of pass 1. None if it is missing, damaged or out of date."""
    if not is_file(path):
        return None
    try:
        content = deserialize(read_file(path), path.name)
        if content["metadata"]["content_hash"] != sample.content_hash:
            return None
        names = ("target_latents", "text_hidden_states", "lyric_hidden_states")
        if any(not isinstance(content[name], Tensor) or unusual(content[name]) for name in names):
            return None
        return Features(
            **{name: content[name] for name in names},
            duration=content["metadata"]["duration"],
        )
    except (TensorError, OSError, KeyError, TypeError):
        return None
