"""The interface of adapters, and the functions that all kinds share.

The weights have two forms:

    state     the trained parameters, fp32, exact; to resume a run
    folded    the same with the scale multiplied in, so that the update at strength 1 needs no alpha;
              the content of adapter files (docs/FORMATS.md)

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
    """The checked content of an adapter file: folded fp32 ``weights``, and the ``config`` of the training run."""

    file: Path
    kind: str
    config: AdapterConfig
    weights: dict[str, Tensor]
    metadata: AdapterMetadata
    dtype: torch.dtype = torch.bfloat16
    """Dtype of the weights in the file."""

    @property
    def modules(self) -> dict[str, dict[str, Tensor]]:
        """Original module name -> part -> tensor."""
        return modules_of(self.weights)


def modules_of(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Module name -> part -> tensor, from the keys of ``weights``."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in weights.items():
        module, part = split_key(key)
        found.setdefault(module, {})[part] = tensor
    return found


C = TypeVar("C", bound=AdapterConfig)


def parse_config(file: Path, config_type: type[C], recorded: Mapping[str, Any]) -> C:
    """The config that the file was trained with; unknown keys are ignored. Raises AdapterError."""
    try:
        return parse(config_type, {key: recorded[key] for key in fields(config_type) if key in recorded})
    except ConfigError as problem:
        raise AdapterError(f"{file} holds invalid settings: {problem}", hint="Download or copy it again.") from None


class Adapter(Protocol):
    """An adapter injected into a decoder. The target of each entry in ``ADAPTERS`` implements this protocol."""

    kind: ClassVar[str]
    config: Any
    network: nn.Module
    """The decoder with the adapter's parameters; call it for the forward pass."""
    notes: list[str]
    """Messages about settings that have no effect."""

    def __init__(self, decoder: nn.Module, modules: list[str], config: Any, *, seed: int) -> None:
        """Inject a new trainable adapter into ``modules`` (diffusers names). Its initial update is zero."""

    @classmethod
    def from_stored(cls, decoder: nn.Module, stored: StoredAdapter) -> Self:
        """Inject a trained adapter, frozen, into the modules of its file."""

    @classmethod
    def matches(cls, keys: list[str]) -> bool:
        """Whether a file with these tensor names holds this kind."""

    @classmethod
    def read(cls, file: Path, tensors: dict[str, Tensor], file_metadata: dict[str, str]) -> StoredAdapter:
        """Parse such a file and the config beside it. Raises AdapterError."""

    @classmethod
    def write(
        cls,
        folder: Path,
        weights: Mapping[str, Tensor],
        config: Any,
        metadata: AdapterMetadata,
        dtype: torch.dtype,
    ) -> None:
        """Write the files of folded ``weights``; the metadata records ``config``. Equal input gives equal bytes."""

    @staticmethod
    def delta_shape(parts: dict[str, Tensor]) -> tuple[int, int]:
        """(out, in) of the weight that one module's folded parts update; ``in`` includes the kernel size."""

    @staticmethod
    def delta_norm(parts: dict[str, Tensor]) -> float:
        """Frobenius norm of one module's weight update at strength 1, from its folded parts.

        It does not depend on the weight, so DoRA returns the norm of its low-rank part.
        """

    @staticmethod
    def delta(parts: dict[str, Tensor], weight: Tensor, strength: float = 1.0) -> Tensor:
        """The weight update [out, in] of one module's folded parts for its ``weight`` [out, in], fp32.

        It is what ``set_strength`` computes with.
        """

    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters, fp32, in a fixed order."""

    def set_strength(self, strength: float) -> None:
        """Apply the adapter at ``strength`` from now on: 1 is as trained, 0 is the base model.

        Other values follow PEFT (LoRA, DoRA) and LyCORIS (LoKr, LoHa). The weight update is linear in the strength,
        except with trained magnitudes.
        """

    def state(self) -> dict[str, Tensor]:
        """Exact fp32 copies on the CPU, for the training state."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``state`` returned. Raises AdapterError with the missing, unexpected or misshapen keys, and then
        changes nothing."""

    def folded(self) -> dict[str, Tensor]:
        """The content of an adapter file: fp32 copies on the CPU with the scale multiplied in."""

    def load_folded(self, weights: Mapping[str, Tensor]) -> None:
        """Load folded weights, divided by the scale of this adapter: the same update, trainable. Raises as
        ``load_state``."""

    def save(self, folder: Path, metadata: AdapterMetadata, *, dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the adapter's files into ``folder``."""

    def remove(self) -> nn.Module:
        """Remove the adapter and return the decoder, bit-identical to before. The adapter is unusable afterwards."""


def split_key(key: str) -> tuple[str, str]:
    """``layers.0.mlp.up_proj.lora_A.weight`` -> (``layers.0.mlp.up_proj``, ``lora_A``)."""
    module, _, part = key.removesuffix(".weight").rpartition(".")
    return module, part


def require_no_adapter(decoder: nn.Module) -> None:
    """Raise AdapterError if ``decoder`` has an adapter already: a second one would wrap the first."""
    layer_types = _layer_types()
    for name, module in decoder.named_modules():
        if isinstance(module, layer_types):
            raise AdapterError(f"the model already has an adapter, at {name}", hint="Remove it first.")


def _layer_types() -> tuple[type, ...]:
    """Base classes of adapter layers. Only imported libraries can have layers in a model."""
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
    """Copies of the parameters in fp32 on the CPU, with their own memory."""
    return {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in parameters.items()}


@torch.no_grad()
def copy_weights(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor], what: str) -> None:
    """Copy ``values`` into ``parameters``. Names and shapes must match and all values must be finite.

    Raises:
        AdapterError: some keys do not match; the message has the first few, and nothing is changed.
    """
    problems = [f"{name} is missing" for name in parameters if name not in values]
    for name, value in values.items():
        if name not in parameters:
            problems.append(f"{name} is not part of this adapter")
        elif value.shape != parameters[name].shape:
            problems.append(f"{name} has shape {list(value.shape)}, expected {list(parameters[name].shape)}")
        elif not torch.isfinite(value).all():
            problems.append(f"{name} holds NaN or infinite values")
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise AdapterError(
            f"{what} does not fit: {'; '.join(problems[:4])}{more}",
            hint="Use the adapter settings and targets it was trained with.",
        )
    for name, value in values.items():
        parameters[name].copy_(value)


def require_finite(strength: float) -> float:
    """``strength`` unchanged. Raises AdapterError for NaN and infinity, which make every output NaN."""
    if not math.isfinite(strength):
        raise AdapterError(f"an adapter cannot be applied at strength {strength}", hint="Use a number such as 1.0.")
    return strength


def to_file_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` in ``dtype``; scalars and vectors keep their dtype, since they take little space.

    DoRA's magnitudes scale whole rows, so rounding them to bf16 would change a weight as much as training does.
    """
    return value.to(dtype) if value.dim() > 1 else value


def write_tensors(file: Path, tensors: Mapping[str, Tensor], file_metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes depend only on the content (the library writes metadata in random order)."""
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(file_metadata.items())), **json.loads(data[8 : 8 + length])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_bytes(file, len(text).to_bytes(8, "little") + text + data[8 + length :])
