"""One song, ready to train on: the only description of a ``.pt`` file's content.

Letters for shapes, here and wherever records go:

    B  songs in a batch
    T  latent frames, 25 a second
    C  64 channels of the VAE
    L  tokens of the condition (lyrics, reference, text)
    D  width of a condition token

Three kinds of file are read: ours, the existing trainer's and Side-Step's. The last two pad every condition to
769 tokens, which the DiT would attend to; the padding is cut off by the mask that lies beside it.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from acestep.core.errors import ModelMismatch, TensorError
from acestep.core.files import write_bytes
from acestep.models.checkpoint import Checkpoint, encoder_fingerprint

FORMAT_VERSION = 1
LATENT_RATE_HZ = 25
LATENT_CHANNELS = 64

# The keys of a file and the order in which they stand in it.
TENSOR_KEYS = (
    "target_latents",
    "attention_mask",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "context_latents",
)

_AGAIN = "Preprocess the songs again."

# What torch.load raises on cut or altered files (found by feeding it some thousands of them).
_DAMAGE = (RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError, AssertionError, struct.error)


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """A song's latents and its condition, without padding.

    Raises:
        TensorError: a shape is wrong, or a value is NaN or infinite.
    """

    target_latents: Tensor  # [T, C]   the song, from the VAE
    context_latents: Tensor  # [T, 2C]  silence, then ones: "generate all of it"
    encoder_hidden_states: Tensor  # [L, D]   the condition
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = self.target_latents.shape[0] if self.target_latents.ndim else 0
        _expect("target_latents", self.target_latents, (max(frames, 1), LATENT_CHANNELS))
        _expect("context_latents", self.context_latents, (frames, 2 * LATENT_CHANNELS))
        if self.encoder_hidden_states.ndim != 2 or 0 in self.encoder_hidden_states.shape:
            raise TensorError(
                f"encoder_hidden_states is {list(self.encoder_hidden_states.shape)}, expected [tokens, width]",
                hint=_AGAIN,
            )
        for name in ("target_latents", "context_latents", "encoder_hidden_states"):
            if not torch.isfinite(getattr(self, name)).all():
                raise TensorError(f"{name} holds NaN or infinite values", hint=_AGAIN)

    @property
    def duration_s(self) -> float:
        return self.target_latents.shape[0] / LATENT_RATE_HZ

    def tensors(self) -> dict[str, Tensor]:
        """The tensors as they stand in a file, with masks of ones for readers that expect some."""
        return {
            "target_latents": self.target_latents,
            "attention_mask": torch.ones(self.target_latents.shape[0], dtype=self.target_latents.dtype),
            "encoder_hidden_states": self.encoder_hidden_states,
            "encoder_attention_mask": torch.ones(self.encoder_hidden_states.shape[0], dtype=torch.bool),
            "context_latents": self.context_latents,
        }


def read_record(path: Path) -> TensorRecord:
    """The song in ``path``. Raises TensorError, naming the file."""
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise TensorError(f"{path} cannot be read: {problem.strerror}", hint=_AGAIN) from None
    return decode_record(data, path.name)


def write_record(path: Path, record: TensorRecord) -> None:
    """Write ``path`` whole or not at all. Equal records give equal bytes, whatever the file is called.

    Raises:
        DiskFull, NotWritable, StorageError.
    """
    write_bytes(path, encode_record(record))


def encode_record(record: TensorRecord) -> bytes:
    """The content of a record's file."""
    return serialize({**record.tensors(), "metadata": record.metadata})


def decode_record(data: bytes, name: str) -> TensorRecord:
    """Undo ``encode_record``, or read what another trainer wrote. ``name`` is for the error.

    Raises:
        TensorError: not a tensor file, unsafe, cut, of a newer version, or a tensor is missing or misshapen.
    """
    content = deserialize(data, name)
    missing = [key for key in TENSOR_KEYS if not isinstance(content.get(key), Tensor)]
    if missing:
        raise TensorError(f"{name} has no {', '.join(missing)}", hint=_AGAIN)
    metadata = _plain(content.get("metadata"))
    version = metadata.get("format_version", 0)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise TensorError(
            f"{name} has format {version!r}, this program reads up to {FORMAT_VERSION}", hint="Update it."
        )
    try:
        return _record({key: content[key] for key in TENSOR_KEYS}, metadata)
    except TensorError as error:
        raise TensorError(f"{name}: {error}", hint=error.hint) from None


def serialize(content: Mapping[str, Any]) -> bytes:
    """``torch.save`` of tensors and plain data: equal content gives equal bytes.

    A tensor that is a view would be stored with all of its base, and ``torch.save`` to a path stores the path's
    name; neither is done here. Plain data goes through JSON, which leaves no object shared and no foreign type.
    """
    buffer = io.BytesIO()
    torch.save({key: _storable(value) for key, value in content.items()}, buffer)
    return buffer.getvalue()


def deserialize(data: bytes, name: str) -> dict[str, Any]:
    """Tensors and plain data from ``torch.save``'s format; nothing in the file is executed. Raises TensorError."""
    if not data.startswith(b"PK"):
        raise TensorError(f"{name} is not a tensor file", hint=_AGAIN)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        asked = re.search(r"GLOBAL ([\w.]+)", str(problem))
        if asked is None:
            raise TensorError(f"{name} is damaged", hint=_AGAIN) from None
        raise TensorError(
            f"{name} was not opened: it asks to run code of its own ({asked[1]})",
            hint="A file of songs never needs that. Do not trust where it came from.",
        ) from None
    except _DAMAGE:
        raise TensorError(f"{name} is cut short or damaged", hint=_AGAIN) from None
    if not isinstance(content, dict):
        raise TensorError(f"{name} holds no song, but a {type(content).__name__}", hint=_AGAIN)
    return content


def check_fingerprint(records: Iterable[TensorRecord], checkpoint: Checkpoint) -> list[str]:
    """Refuse songs whose conditions another model's encoder made; what could not be told comes back as warnings.

    Our records carry a fingerprint of the encoder. Other trainers' records carry the checkpoint's name at best.

    Raises:
        ModelMismatch: naming the first such song and both models.
    """
    wanted = encoder_fingerprint(checkpoint)
    unknown: list[str] = []
    for record in records:
        song = str(record.metadata.get("filename") or "a song")
        made_with = record.metadata.get("model_checkpoint")
        fingerprint = record.metadata.get("encoder_fingerprint")
        if fingerprint is None and not made_with:
            unknown.append(song)
        elif fingerprint != wanted if fingerprint is not None else made_with != checkpoint.name:
            same_name = f" (encoder {fingerprint}, not {wanted})" if made_with == checkpoint.name else ""
            raise ModelMismatch(
                f"{song} was made with {made_with or 'another model'}, the model is {checkpoint.name}{same_name}",
                hint="Preprocess the songs with the model that you train, or train the model they were made with.",
            )
    if not unknown:
        return []
    return [f"{', '.join(unknown[:5])}: made with an unknown model; only right if that was {checkpoint.name}"]


def _record(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> TensorRecord:
    """The record without the frames and tokens that the masks call padding."""
    for mask, of in (("attention_mask", "target_latents"), ("encoder_attention_mask", "encoder_hidden_states")):
        _expect(mask, tensors[mask], tensors[of].shape[:1])
    frames, tokens = tensors["attention_mask"] != 0, tensors["encoder_attention_mask"] != 0
    if tensors["context_latents"].shape[:1] == frames.shape and not frames.all():
        tensors["target_latents"] = tensors["target_latents"][frames]
        tensors["context_latents"] = tensors["context_latents"][frames]
    if not tokens.all():
        tensors["encoder_hidden_states"] = tensors["encoder_hidden_states"][tokens]
        metadata = {**metadata, "padded_condition": True}
    return TensorRecord(
        tensors["target_latents"], tensors["context_latents"], tensors["encoder_hidden_states"], metadata
    )


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise TensorError(f"{name} is {list(tensor.shape)}, expected {list(shape)}", hint=_AGAIN)


def _storable(value: Any) -> Any:
    return value.detach().cpu().contiguous().clone() if isinstance(value, Tensor) else _plain_json(value)


def _plain_json(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True, allow_nan=False))


def _plain(metadata: object) -> dict[str, Any]:
    """Foreign metadata as plain data; what JSON does not know becomes text."""
    if not isinstance(metadata, dict):
        return {}
    result: dict[str, Any] = json.loads(json.dumps({str(key): value for key, value in metadata.items()}, default=str))
    return result
