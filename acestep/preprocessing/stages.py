"""The two stages of encoding a song, and how much memory their models take.

    sound and text  --FeatureStage-->  Features  --ConditionStage-->  TensorRecord

Standard preprocessing holds both stages at once; two-pass finishes all songs with the first, frees it, then loads
the second. Both run the same code on the same numbers, so their files are equal byte for byte.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from acestep.audio.files import SAMPLE_RATE_HZ, load_audio
from acestep.audio.loudness import normalize
from acestep.core.errors import TensorError
from acestep.core.files import write_bytes
from acestep.models import load
from acestep.models.checkpoint import Checkpoint
from acestep.models.condition import context_latents, encode_condition
from acestep.models.device import empty_cache
from acestep.models.text import format_lyrics, format_prompt
from acestep.models.vae import encode_audio
from acestep.preprocessing.sample_sources import Song
from acestep.tensors.record import TensorRecord, deserialize, serialize


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how precisely models work."""

    checkpoint: Checkpoint
    device: str
    dtype: torch.dtype

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class Features:
    """What the first stage gives, on the CPU. W is the width of the text encoder."""

    target_latents: Tensor  # [T, C]
    text_hidden_states: Tensor  # [Lt, W]
    lyric_hidden_states: Tensor  # [Ll, W]
    duration: int  # whole seconds of sound that were encoded


class LiveModels:
    """Bytes of the models that are alive. It does not keep them: what was freed is gone, what leaked shows."""

    def __init__(self) -> None:
        self._models: list[weakref.ref[nn.Module]] = []
        self.peak_bytes = 0

    def watch(self, *models: nn.Module) -> None:
        self._models += [weakref.ref(model) for model in models]
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    @property
    def bytes(self) -> int:
        alive = [model for ref in self._models if (model := ref()) is not None]
        return sum(t.numel() * t.element_size() for model in alive for t in (*model.parameters(), *model.buffers()))


class FeatureStage:
    """VAE and text encoder: a song's sound to latents, its words to states."""

    def __init__(self, place: Place, live: LiveModels) -> None:
        """Loads the models. Raises CheckpointError."""
        self._vae = load.load_vae(place.checkpoint, device=place.device, dtype=place.dtype)
        self._text = load.load_text_encoder(place.checkpoint, device=place.device, dtype=place.dtype)
        live.watch(self._vae, self._text.model)

    @torch.no_grad()
    def __call__(self, song: Song, audio: Tensor) -> Features:
        """``audio`` is [2, S] at 48 kHz, as ``song_audio`` gives it."""
        seconds = audio.shape[1] / SAMPLE_RATE_HZ
        labels = song.metadata
        prompt = format_prompt(
            song.text,
            bpm=labels["bpm"],
            timesignature=labels["timesignature"],
            keyscale=labels["keyscale"],
            duration_s=seconds,
        )
        return Features(
            target_latents=encode_audio(self._vae, audio, seed=song.encode_seed).cpu(),
            text_hidden_states=self._text.encode_prompt(prompt).cpu(),
            lyric_hidden_states=self._text.embed_lyrics(format_lyrics(song.lyrics, song.language)).cpu(),
            duration=int(seconds),
        )


class ConditionStage:
    """The model's condition encoder and its silence: features to a record."""

    def __init__(self, place: Place, live: LiveModels) -> None:
        """Loads the models. Raises CheckpointError."""
        self._place = place
        self._encoder = load.load_condition_encoder(place.checkpoint, device=place.device, dtype=place.dtype)
        self._silence = load.load_silence_latent(place.checkpoint, device=place.device, dtype=place.dtype)
        live.watch(self._encoder)

    @torch.no_grad()
    def __call__(self, song: Song, features: Features) -> TensorRecord:
        """The finished song. Raises TensorError when the models answered NaN."""
        text = features.text_hidden_states.to(self._place.device)
        lyrics = features.lyric_hidden_states.to(self._place.device)
        return TensorRecord(
            target_latents=features.target_latents,
            context_latents=context_latents(self._silence, features.target_latents.shape[0]).cpu(),
            encoder_hidden_states=encode_condition(self._encoder, text, lyrics, self._silence).cpu(),
            metadata={**song.metadata, "duration": features.duration},
        )


def release(device: str) -> None:
    """Give memory back after the last reference to a stage is gone."""
    gc.collect()
    empty_cache(device)


def decoded_ahead(songs: list[Song], mode: str, max_duration_s: int) -> Iterator[tuple[Song, Future[Tensor]]]:
    """Each song with its sound; the next song's is decoded in the background while the caller works."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode") as pool:
        ahead = [pool.submit(song_audio, song, mode, max_duration_s) for song in songs[:1]]
        for number, song in enumerate(songs, start=1):
            ahead += [pool.submit(song_audio, after, mode, max_duration_s) for after in songs[number : number + 1]]
            yield song, ahead.pop(0)


def song_audio(song: Song, mode: str, max_duration_s: int) -> Tensor:
    """[2, S] at 48 kHz, cut and normalised. Raises AudioError."""
    return normalize(load_audio(song.audio, max_duration_s=max_duration_s), mode)


def write_features(path: Path, song: Song, features: Features) -> None:
    """Keep what pass 1 made. Raises DiskFull, NotWritable, StorageError."""
    content = {
        "target_latents": features.target_latents,
        "text_hidden_states": features.text_hidden_states,
        "lyric_hidden_states": features.lyric_hidden_states,
        "metadata": {"content_hash": song.content_hash, "duration": features.duration},
    }
    write_bytes(path, serialize(content))


def read_features(path: Path, song: Song) -> Features | None:
    """What pass 1 made of this very song, maybe in an earlier run; None when that must be done (again)."""
    if not path.is_file():
        return None
    try:
        content = deserialize(path.read_bytes(), path.name)
        if content["metadata"]["content_hash"] != song.content_hash:
            return None
        return Features(
            target_latents=content["target_latents"],
            text_hidden_states=content["text_hidden_states"],
            lyric_hidden_states=content["lyric_hidden_states"],
            duration=content["metadata"]["duration"],
        )
    except (TensorError, KeyError):
        return None
