"""Verification of every export: compares what the other program loads with what was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acestep.adapters.files import adapter_class, load_adapter
from acestep.core.errors import AdapterError
from acestep.exporting.delta import BaseWeights, ModuleTensors, delta
from acestep.exporting.load_result import WrittenAdapter
from acestep.exporting.source import ExportSource
from acestep.models.key_mapping import original_to_diffusers
from acestep.models.load import load_dit

_ROUNDED, _EXACT = 1e-2, 1e-4  # largest residual of an exact form, from rounding in 16-bit and 32-bit files
_MIN_RMS = 3e-8  # RMS of a weight delta; the weights are near 0.02, and fp32 rounds them by 1e-9


@dataclass(frozen=True, slots=True)
class ExportMetrics:
    """Metrics of an exported adapter.

    Attributes:
        modules: number of modules that the program loads.
        residual: |exported - trained| / |trained| over all weights.
        smallest, largest: norms of the weight deltas.
    """

    modules: int
    residual: float
    smallest: float
    largest: float


def compare(source: ExportSource, written: WrittenAdapter) -> ExportMetrics:
    """Compare a written adapter with its source.

    Raises:
        AdapterError: a key or module is missing, a value is NaN, a weight delta is zero, or an exact form is not exact.
    """
    loaded, where = written.loaded, source.adapter.file
    lost = [name for name in source.modules if name not in loaded.modules]
    if loaded.ignored_keys or lost or loaded.modules.keys() - source.modules.keys():
        raise AdapterError(
            f"{where} was not written completely: {', '.join([*loaded.ignored_keys, *lost][:3])} cannot be read"
        )
    if not_finite := [name for name, parts in loaded.modules.items() if not all(map(_finite, parts.values()))]:
        raise AdapterError(f"{where} cannot be written: {not_finite[0]} would contain NaN or infinite values")
    error = total = 0.0
    norms, zero_deltas = [], []
    for name in source.modules:
        size, difference, loaded_size = _norms(source, name, loaded.modules.get(name))
        error, total = error + difference**2, total + size**2
        if name in loaded.modules:
            norms.append(loaded_size)
            zero_deltas += [name] if size > 0 and not loaded_size > 0 else []
    residual = math.sqrt(error / total) if total else math.nan
    limit = _EXACT if source.adapter.dtype == torch.float32 else _ROUNDED
    if zero_deltas or not residual < (limit if written.exact else 1.0):
        worst = f"; the weight delta of {zero_deltas[0]} is zero" if zero_deltas else ""
        raise AdapterError(f"the export of {where} differs from the trained adapter by {residual:.2%}{worst}")
    return ExportMetrics(len(norms), residual, min(norms), max(norms))


def _norms(source: ExportSource, name: str, parts: ModuleTensors | None) -> tuple[float, float, float]:
    """Norms for one module: of the trained delta, of its difference to the loaded delta, and of the loaded delta."""
    if parts and source.same_kind and _equal(parts, same_kind := source.same_kind_modules[name]):
        size = adapter_class(source.same_kind.kind).delta_norm(dict(same_kind))
        return size, 0.0, size
    trained, found = _deltas(source, name, parts)
    return float(trained.norm()), float((found - trained).norm()), float(found.norm())


def _equal(parts: ModuleTensors, other: ModuleTensors) -> bool:
    """Whether all values are equal. Avoids computing large matrices."""
    return parts.keys() == other.keys() and all(
        torch.equal(parts[name].float(), value) for name, value in other.items()
    )


def _deltas(source: ExportSource, name: str, parts: ModuleTensors | None) -> tuple[Tensor, Tensor]:
    """The trained and the loaded weight delta of one module.

    If the delta depends on the base model and there is none, the parts themselves are compared.
    """
    same_kind = source.same_kind_modules.get(name, source.modules[name])
    if source.needs_base and not source.base:
        return _flat(same_kind, same_kind), _flat(parts or {}, same_kind)
    trained = source.weight_delta(name)
    return trained, delta(parts, source.base_weight(name)) if parts else torch.zeros_like(trained)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _flat(parts: ModuleTensors, like: ModuleTensors) -> Tensor:
    """All values of ``parts`` in one vector, NaN for missing parts."""
    values = [parts.get(name, torch.full_like(value, math.nan)) for name, value in sorted(like.items())]
    return torch.cat([value.float().flatten() for value in values])


def require_learned(source: ExportSource) -> None:
    """Raise AdapterError if the weight delta of a module is zero or below the rounding error of its weight."""
    kind, unchanged = adapter_class(source.adapter.kind), []
    for name, parts in source.modules.items():
        if not kind.delta_norm(parts) > _MIN_RMS * math.sqrt(math.prod(kind.delta_shape(parts))):
            unchanged.append(name)
    if unchanged:
        raise AdapterError(
            f"{source.adapter.file} has a zero weight delta in {len(unchanged)} of {len(source.modules)} modules, "
            f"such as {unchanged[0]}",
            hint="Train it for at least one step.",
        )


class OutputComparison:
    """Compares decoder outputs in fp32: without the adapter, as trained, and as another program loads it."""

    @torch.no_grad()
    def __init__(self, source: ExportSource, base: BaseWeights) -> None:
        self._source = source
        self._base = base
        self._decoder = load_dit(base.checkpoint)
        self._plain = probe_decoder(self._decoder)
        adapter = load_adapter(self._decoder, source.adapter.file)
        adapter.set_strength(source.strength)
        self._trained = probe_decoder(self._decoder)
        adapter.remove()

    @torch.no_grad()
    def error(self, written: WrittenAdapter) -> float:
        """|exported - trained| / |trained - base|"""
        for name, parts in written.loaded.modules.items():
            weight = self._weight(name)
            weight += delta(parts, self._source.base_weight(name)).reshape(weight.shape)
        found = probe_decoder(self._decoder)
        for name in written.loaded.modules:
            self._weight(name).copy_(self._base[name])
        return float((found - self._trained).norm() / (self._trained - self._plain).norm())

    def _weight(self, name: str) -> Tensor:
        weight: Any = self._decoder.get_submodule(original_to_diffusers(name)).weight
        return weight  # type: ignore[no-any-return]


def probe_decoder(decoder: nn.Module) -> Tensor:
    """The decoder's output [2, T, C] for fixed random inputs: T = 50 frames (2 s) at two timesteps."""
    config: Any = decoder.config
    channels = config.audio_acoustic_hidden_dim
    width = config.encoder_hidden_size or config.hidden_size
    generator = torch.Generator().manual_seed(0)
    points, context, condition = (
        torch.randn(2, *shape, generator=generator)
        for shape in ((50, channels), (50, config.in_channels - channels), (16, width))
    )
    time = torch.tensor([0.3, 0.8])
    output: Tensor = decoder(
        hidden_states=points,
        timestep=time,
        timestep_r=time,
        encoder_hidden_states=condition,
        context_latents=context,
        return_dict=False,
    )[0]
    return output


def metrics_as_json(found: ExportMetrics) -> Mapping[str, Any]:
    """The metrics by their names in the result of a command."""
    return {"modules": found.modules, "delta_norm": [found.smallest, found.largest], "residual": found.residual}
