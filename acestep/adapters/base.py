"""What every kind of adapter can do, and the small things they share.

The weights have two forms:

    state     the trained parameters themselves, fp32, exact; for going on with a run
    folded    the same with the scale multiplied in, so that the addition at strength 1 needs no alpha;
              what adapter files hold and other programs read

Both are flat: ``<original module name>.<part>`` -> tensor.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from acestep.adapters.configs import ADAPTERS, AdapterConfig
from acestep.adapters.metadata import AdapterMetadata
from acestep.core.config import fields, parse
from acestep.core.errors import AdapterError, ConfigError
from acestep.core.files import write_bytes

__all__ = ["ADAPTERS", "Adapter", "StoredAdapter"]


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter file, read and checked: ``weights`` are folded, fp32; ``config`` is what it was trained with."""

    file: Path
    kind: str
    config: AdapterConfig
    weights: dict[str, Tensor]
    metadata: AdapterMetadata
    dtype: torch.dtype = torch.bfloat16
    """Of the weights in the file."""

    @property
    def modules(self) -> dict[str, dict[str, Tensor]]:
        """Original module name -> part -> tensor."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, tensor in self.weights.items():
            module, part = split_key(key)
            found.setdefault(module, {})[part] = tensor
        return found


C = TypeVar("C", bound=AdapterConfig)


def parse_config(file: Path, config_type: type[C], recorded: Mapping[str, Any]) -> C:
    """The settings a file was trained with; unknown keys are ignored. Raises AdapterError."""
    try:
        return parse(config_type, {key: recorded[key] for key in fields(config_type) if key in recorded})
    except ConfigError as problem:
        raise AdapterError(f"{file} contains invalid settings: {problem}", hint="Get the file again.") from None


class Adapter(Protocol):
    """An adapter sitting in a decoder. Classes of this shape are what ``AdapterConfig.implementation`` names."""

    kind: ClassVar[str]
    config: Any
    network: nn.Module
    """What to call in the forward: the decoder, which holds the adapter's parameters as its own."""
    notes: list[str]
    """Settings that have no effect here, in words for the user."""

    def __init__(self, decoder: nn.Module, modules: list[str], config: Any, *, seed: int) -> None:
        """Put a fresh, trainable adapter that changes nothing yet on ``modules`` (diffusers names)."""

    @classmethod
    def from_stored(cls, decoder: nn.Module, stored: StoredAdapter) -> Self:
        """Put a finished adapter in, frozen, on the modules of its file."""

    @classmethod
    def matches(cls, keys: list[str]) -> bool:
        """Whether a file with these tensors holds this kind."""

    @classmethod
    def read(cls, file: Path, tensors: dict[str, Tensor], file_metadata: dict[str, str]) -> StoredAdapter:
        """Make sense of such a file and what lies beside it. Raises AdapterError."""

    @classmethod
    def write(
        cls,
        folder: Path,
        weights: Mapping[str, Tensor],
        config: Any,
        metadata: AdapterMetadata,
        dtype: torch.dtype,
    ) -> None:
        """The files for folded ``weights``; ``config``, as trained, goes into the metadata. Deterministic."""

    @staticmethod
    def delta_shape(parts: dict[str, Tensor]) -> tuple[int, int]:
        """(out, in) of the weight that one module's folded parts add to; a kernel counts into ``in``."""

    @staticmethod
    def delta_norm(parts: dict[str, Tensor]) -> float:
        """Frobenius norm of what one module's folded parts add to its weight at strength 1.

        Computed without the base weight: for DoRA, that of its low-rank part.
        """

    @staticmethod
    def delta(parts: dict[str, Tensor], weight: Tensor) -> Tensor:
        """[out, in] what one module's folded parts add at strength 1 to its ``weight`` [out, in], both fp32."""

    def parameters(self) -> list[nn.Parameter]:
        """The trainable ones, fp32, in an order that never changes."""

    def set_strength(self, strength: float) -> None:
        """From now on the decoder computes with W + strength * delta; 0 is the base, above 1 exaggerates."""

    def state(self) -> dict[str, Tensor]:
        """Exact fp32 copies on the CPU, for the training state."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Undo ``state``. Raises AdapterError naming missing, unexpected or misshapen keys; then nothing changed."""

    def folded(self) -> dict[str, Tensor]:
        """What a file holds: fp32 copies on the CPU, scale multiplied in."""

    def load_folded(self, weights: Mapping[str, Tensor]) -> None:
        """Undo ``folded`` by this adapter's own scale: the same addition, trainable. Raises as ``load_state``."""

    def save(self, folder: Path, metadata: AdapterMetadata, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the adapter's files into ``folder``, for every program that can read this kind."""

    def remove(self) -> nn.Module:
        """Give back the decoder as it was before, bit for bit. The adapter is of no use afterwards."""


def split_key(key: str) -> tuple[str, str]:
    """``layers.0.mlp.up_proj.lora_A.weight`` -> (``layers.0.mlp.up_proj``, ``lora_A``)."""
    module, _, part = key.removesuffix(".weight").rpartition(".")
    return module, part


def require_no_adapter(decoder: nn.Module) -> None:
    """Raises AdapterError if an adapter sits in ``decoder`` already: a second one would wrap the first."""
    layer_types = _layer_types()
    for name, module in decoder.named_modules():
        if isinstance(module, layer_types):
            raise AdapterError(f"the model already carries an adapter, at {name}", hint="Remove it first.")


def _layer_types() -> tuple[type, ...]:
    """Base classes of adapter layers; a library that is not imported has no layer in any model."""
    known = (("peft.tuners.tuners_utils", "BaseTunerLayer"), ("lycoris.modules.base", "LycorisBaseModule"))
    return tuple(getattr(sys.modules[module], name) for module, name in known if module in sys.modules)


@contextmanager
def fork_cpu_rng(seed: int) -> Iterator[None]:
    """Seed the CPU generator in the context and restore its state afterwards, like ``torch.random.fork_rng``."""
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch the accelerators too
    try:
        yield
    finally:
        torch.set_rng_state(before)


def cpu_copies(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """fp32 copies on the CPU that share no memory with the parameters."""
    return {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in parameters.items()}


@torch.no_grad()
def copy_weights(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor], what: str) -> None:
    """Copy ``values`` into ``parameters``: the same names and shapes, all finite, or nothing is changed.

    Raises:
        AdapterError: naming the first few keys that do not fit.
    """
    problems = [f"{name} is missing" for name in parameters if name not in values]
    for name, value in values.items():
        if name not in parameters:
            problems.append(f"{name} is not part of this adapter")
        elif value.shape != parameters[name].shape:
            problems.append(f"{name} is {list(value.shape)}, wanted {list(parameters[name].shape)}")
        elif not torch.isfinite(value).all():
            problems.append(f"{name} holds NaN or infinite values")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise AdapterError(
            f"{what} does not fit: {'; '.join(problems[:4])}{more}",
            hint="Use the adapter settings and targets it was made with.",
        )
    for name, value in values.items():
        parameters[name].copy_(value)


def require_finite(strength: float) -> float:
    """``strength`` itself. Raises AdapterError for NaN and infinity, which would silence the model."""
    if not math.isfinite(strength):
        raise AdapterError(f"an adapter cannot be applied at strength {strength}", hint="Use a number such as 1.0.")
    return strength


def to_file_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` as a file of ``dtype`` holds it: lone numbers and vectors stay exact, they weigh nothing.

    DoRA's magnitudes multiply whole rows: rounded to bf16 they would change a weight as much as training does.
    """
    return value.to(dtype) if value.dim() > 1 else value


def write_tensors(file: Path, tensors: Mapping[str, Tensor], file_metadata: Mapping[str, str]) -> None:
    """A safetensors file whose bytes depend on the content alone (the library writes metadata in random order)."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(file_metadata.items())), **json.loads(data[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_bytes(file, len(text).to_bytes(8, "little") + text + data[8 + length :])
