"""Read and write preprocessed samples, the ``.pt`` files of a dataset (docs/FORMATS.md).

Letters in shapes, in this and all other modules:

    B  samples in a batch
    T  latent frames, 25 per second
    C  latent channels, 64
    L  condition tokens (lyrics, reference audio, text)
    D  condition width
    S  audio samples at 48 kHz

Files of ace-lora-trainer and Side-Step are supported. They pad each condition to 769 tokens, which the DiT would
attend to. The padding is removed with the mask in the file.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from acestep.core.errors import ModelMismatch, TensorError
from acestep.core.files import write_bytes
from acestep.core.untrusted import MAX_DEPTH, read_file, shorten
from acestep.models.checkpoint import Checkpoint, encoder_fingerprint
from acestep.models.torch_archive import ArchiveError, load_archive, unusual

FORMAT_VERSION = 1
LATENT_RATE_HZ = 25
LATENT_CHANNELS = 64

# The keys of a file, in order.
TENSOR_KEYS = (
    "target_latents",
    "attention_mask",
    "encoder_hidden_states",
    "encoder_attention_mask",
    "context_latents",
)

HINT = "Preprocess the dataset again."

_MAX_METADATA = 100_000  # values and keys of the metadata of a sample


class Crop(NamedTuple):
    """A part of the frames of a sample, and its whole condition, in the dtype of the file."""

    latents: Tensor  # [T, C]
    context: Tensor  # [T, 2C]
    condition: Tensor  # [L, D]


class SampleTensors(Protocol):
    """The tensors of a sample in memory (``TensorRecord``) or in their file (``TensorFile``)."""

    @property
    def metadata(self) -> dict[str, Any]: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def width(self) -> int:
        """D."""

    @property
    def num_bytes(self) -> int: ...
    def crop(self, start: int = 0, max_frames: int = 0) -> Crop:
        """The frames from ``start``, at most ``max_frames`` (0: all)."""


@dataclass(frozen=True, slots=True, eq=False)
class TensorRecord:
    """Latents and condition of one sample, without padding.

    Attributes:
        target_latents: [T, C] latents of the audio.
        context_latents: [T, 2C] silence latents, then a generation mask of ones.
        encoder_hidden_states: [L, D] condition tokens.
        metadata: labels and provenance, JSON-compatible.

    Raises:
        TensorError: a wrong shape, or NaN or infinite values.
    """

    target_latents: Tensor
    context_latents: Tensor
    encoder_hidden_states: Tensor
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames = self.target_latents.shape[0] if self.target_latents.ndim else 0
        _require_shape("target_latents", self.target_latents, (max(frames, 1), LATENT_CHANNELS))
        _require_shape("context_latents", self.context_latents, (frames, 2 * LATENT_CHANNELS))
        if self.encoder_hidden_states.ndim != 2 or 0 in self.encoder_hidden_states.shape:
            raise TensorError(
                f"encoder_hidden_states has shape {list(self.encoder_hidden_states.shape)}, expected [L, D]",
                hint=HINT,
            )
        for name in ("target_latents", "context_latents", "encoder_hidden_states"):
            tensor: Tensor = getattr(self, name)
            if not torch.isfinite(
                torch.stack(tensor.aminmax())
            ).all():  # NaN gives NaN; ten times as fast as all values
                cause = (
                    "The likely cause is fp16, in which the model overflows. " if tensor.dtype == torch.float16 else ""
                )
                raise TensorError(f"{name} contains NaN or infinite values", hint=f"{cause}{HINT}")

    @property
    def duration_s(self) -> float:
        """Duration of the audio in seconds."""
        return self.num_frames / LATENT_RATE_HZ

    @property
    def num_frames(self) -> int:
        return self.target_latents.shape[0]

    @property
    def num_tokens(self) -> int:
        return self.encoder_hidden_states.shape[0]

    @property
    def width(self) -> int:
        """D, the condition width."""
        return self.encoder_hidden_states.shape[1]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.crop())

    def crop(self, start: int = 0, max_frames: int = 0) -> Crop:
        """The frames from ``start``, at most ``max_frames`` (0: all), and the condition."""
        part = slice(start, start + max_frames if max_frames else None)
        return Crop(self.target_latents[part], self.context_latents[part], self.encoder_hidden_states)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the file by key. Masks of ones are added for programs that expect them."""
        return {
            "target_latents": self.target_latents,
            "attention_mask": torch.ones(self.target_latents.shape[0], dtype=self.target_latents.dtype),
            "encoder_hidden_states": self.encoder_hidden_states,
            "encoder_attention_mask": torch.ones(self.encoder_hidden_states.shape[0], dtype=torch.bool),
            "context_latents": self.context_latents,
        }


def read_record(path: Path) -> TensorRecord:
    """Read a sample. Raises TensorError with the path or file name."""
    try:
        data = read_file(path)
    except OSError as error:
        raise TensorError(f"{path} cannot be read: {error.strerror or error}", hint=HINT) from None
    return decode_record(data, path.name)


def write_record(path: Path, record: TensorRecord) -> None:
    """Write a sample atomically. Equal records give equal bytes, independent of the file name.

    Raises:
        DiskFull, NotWritable, StorageError.
    """
    write_bytes(path, encode_record(record))


def encode_record(record: TensorRecord) -> bytes:
    """Return the content of the file of ``record``."""
    return serialize({**record.tensors(), "metadata": record.metadata})


def decode_record(data: bytes, name: str) -> TensorRecord:
    """Return the sample in ``data``, the inverse of ``encode_record``. Also reads files of other trainers.

    Args:
        name: file name for error messages.

    Raises:
        TensorError: not a tensor file, unsafe, truncated, of a newer version, or a missing or misshapen tensor.
    """
    content = deserialize(data, name)
    missing = [key for key in TENSOR_KEYS if not isinstance(content.get(key), Tensor)]
    if missing:
        raise TensorError(f"{name} is missing the tensors {', '.join(missing)}", hint=HINT)
    for key in TENSOR_KEYS:
        valid_dtype = key.endswith("mask") or content[key].is_floating_point()
        if problem := unusual(content[key]) or ("" if valid_dtype else f"has dtype {content[key].dtype}"):
            raise TensorError(f"{name}: {key} {problem}", hint=HINT)
    try:
        metadata = _json_compatible(content.get("metadata"))
    except ValueError as error:
        raise TensorError(f"{name}: its metadata {error}", hint=HINT) from None
    version = metadata.get("format_version", 0)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise TensorError(
            f"{name} has format version {version!r}; this program supports versions up to {FORMAT_VERSION}",
            hint="Update this program.",
        )
    try:
        return _without_padding({key: content[key] for key in TENSOR_KEYS}, metadata)
    except TensorError as error:
        raise TensorError(f"{name}: {error}", hint=error.hint) from None


def serialize(content: Mapping[str, Any]) -> bytes:
    """Serialize tensors and JSON-compatible data with ``torch.save`` so that equal content gives equal bytes.

    Views are copied, because ``torch.save`` would write their whole base tensor. Saving to a buffer keeps the file
    name out of the archive. A JSON round trip removes shared references, which pickle would write.
    """
    buffer = io.BytesIO()
    torch.save({key: _to_serializable(value) for key, value in content.items()}, buffer)
    return buffer.getvalue()


def deserialize(data: bytes, name: str) -> dict[str, Any]:
    """Load a ``torch.save`` archive with ``weights_only=True``, so no code is executed. Raises TensorError.

    Args:
        name: file name for error messages.
    """
    try:
        content = load_archive(data)
    except ArchiveError as error:
        if not error.code:
            raise TensorError(f"{name} {error}", hint=HINT) from None
        raise TensorError(
            f"{name} was not loaded: it contains code ({error.code})",
            hint="Preprocessed tensors never contain code. Do not trust the source of this file.",
        ) from None
    if not isinstance(content, dict):
        raise TensorError(
            f"{name} is not a preprocessed sample: expected a dict, got {type(content).__name__}", hint=HINT
        )
    return content


def check_fingerprint(records: Iterable[SampleTensors], checkpoint: Checkpoint) -> list[str]:
    """Check that the condition encoder of ``checkpoint`` produced the conditions of all samples.

    Samples of this program have an encoder fingerprint. Those of other trainers have the checkpoint name or nothing.

    Returns:
        Warnings about samples without either.

    Raises:
        ModelMismatch: a sample that another model produced.
    """
    expected = encoder_fingerprint(checkpoint)
    unknown: list[str] = []
    for record in records:
        name = str(record.metadata.get("filename") or "a sample")
        model = record.metadata.get("model_checkpoint")
        fingerprint = record.metadata.get("encoder_fingerprint")
        if fingerprint is None and not model:
            unknown.append(name)
        elif fingerprint != expected if fingerprint is not None else model != checkpoint.name:
            details = f" (encoder {fingerprint}, not {expected})" if model == checkpoint.name else ""
            raise ModelMismatch(
                f"{name} was preprocessed with {model or 'another model'}, "
                f"the base model is {checkpoint.name}{details}",
                hint="Preprocess the dataset with this base model, or train the model it was preprocessed with.",
            )
    if not unknown:
        return []
    return [f"{', '.join(unknown[:5])}: preprocessed with an unknown model; valid only if that was {checkpoint.name}"]


def _without_padding(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> TensorRecord:
    """Build the record without the frames and tokens that the masks exclude."""
    for mask, name in (("attention_mask", "target_latents"), ("encoder_attention_mask", "encoder_hidden_states")):
        _require_shape(mask, tensors[mask], tensors[name].shape[:1])
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


def _require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise TensorError(f"{name} has shape {list(tensor.shape)}, expected {list(shape)}", hint=HINT)


def _to_serializable(value: Any) -> Any:
    return value.detach().cpu().contiguous().clone() if isinstance(value, Tensor) else _json_round_trip(value)


def _json_round_trip(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True, allow_nan=False))


def _json_compatible(metadata: object) -> dict[str, Any]:
    """Metadata as JSON-compatible data; other types are converted to str. Raises ValueError if there is too much."""
    count = 0

    def convert(value: object, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > _MAX_METADATA or depth > MAX_DEPTH:
            raise ValueError(f"has more than {_MAX_METADATA:,} values or {MAX_DEPTH} levels")
        if isinstance(value, dict):
            return {_text(key): convert(inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [convert(inner, depth + 1) for inner in value]
        if isinstance(value, int) and abs(value) >= 2**64:
            raise ValueError("holds a number of more than 64 bits")
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return value if value is None or isinstance(value, bool | int | float) else _text(value)

    return convert(metadata, 0) if isinstance(metadata, dict) else {}


def _text(value: object) -> str:
    """``value`` as text without unpaired surrogates, which no file can hold."""
    text = shorten(f"a tensor of shape {list(value.shape)}") if isinstance(value, Tensor) else str(value)
    return text.encode(errors="replace").decode()
