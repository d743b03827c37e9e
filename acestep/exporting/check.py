"""The self-test of every export: what the other program will hear against what was trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from acestep.adapters.files import load_adapter, method
from acestep.core.errors import AdapterError
from acestep.exporting.delta import BaseWeights, Parts, delta
from acestep.exporting.programs import Written
from acestep.exporting.source import CONVOLUTIONS, Source
from acestep.models.load import load_dit
from acestep.models.names import original_to_diffusers

_ROUNDED, _EXACT = 1e-2, 1e-4  # how far an exact form may be off, by the rounding of 16 and 32 bit files
_INAUDIBLE = 3e-8  # root mean square of an addition; the weights are near 0.02, and fp32 rounds them by 1e-9


@dataclass(frozen=True, slots=True)
class Figures:
    """``residual``: |exported - trained| / |trained| over all weights; ``smallest`` and ``largest`` addition."""

    modules: int
    residual: float
    smallest: float
    largest: float


def compare(source: Source, written: Written) -> Figures:
    """The figures of a written adapter.

    Raises:
        AdapterError: a key or module is lost, something is NaN or falls silent, or an exact form is not exact.
    """
    heard, where = written.heard, source.adapter.file
    lost = [name for name in source.modules if name not in heard.modules and name not in CONVOLUTIONS]
    if heard.left_out or lost or heard.modules.keys() - source.modules.keys():
        raise AdapterError(f"{where} was not written whole: {', '.join([*heard.left_out, *lost][:3])} cannot be read")
    if unsound := [name for name, parts in heard.modules.items() if not all(map(_finite, parts.values()))]:
        raise AdapterError(f"{where} cannot be written: {unsound[0]} would hold NaN or infinite values")
    error = whole = 0.0
    norms, silent = [], []
    for name in source.modules:
        size, off, heard_size = _sizes(source, name, heard.modules.get(name))
        error, whole = error + off**2, whole + size**2
        if name in heard.modules:
            norms.append(heard_size)
            silent += [name] if size > 0 and not heard_size > 0 else []
    residual = math.sqrt(error / whole) if whole else math.nan
    limit = _EXACT if source.adapter.dtype == torch.float32 else _ROUNDED
    if silent or not residual < (limit if written.exact else 1.0):
        worst = f", and {silent[0]} adds nothing" if silent else ""
        raise AdapterError(f"the export of {where} is not what was trained: it is off by {residual:.2%}{worst}")
    return Figures(len(norms), residual, min(norms), max(norms))


def _sizes(source: Source, name: str, parts: Parts | None) -> tuple[float, float, float]:
    """Norms of what one module was trained to add, of the difference to what it will add, and of the latter."""
    if parts and source.own and _equal(parts, own := source.own_modules[name]):
        size = method(source.own.kind).delta_norm(dict(own))
        return size, 0.0, size
    wanted, found = _effects(source, name, parts)
    return float(wanted.norm()), float((found - wanted).norm()), float(found.norm())


def _equal(parts: Parts, own: Parts) -> bool:
    """Whether they hold the same numbers: then they add the same, and no large matrix need be made to tell."""
    return parts.keys() == own.keys() and all(torch.equal(parts[name].float(), value) for name, value in own.items())


def _effects(source: Source, name: str, parts: Parts | None) -> tuple[Tensor, Tensor]:
    """What one module was trained to add, and what it will add.

    Where nobody can tell without the base model, and that is not here, the matrices themselves stand for it.
    """
    own = source.modules[name]
    if source.measures_base and not source.base:
        return _flat(own, own), _flat(parts or {}, own)
    wanted = source.addition(name)
    return wanted, delta(parts, source.base_weight(name)) if parts else torch.zeros_like(wanted)


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _flat(parts: Parts, like: Parts) -> Tensor:
    """All numbers of ``parts`` in one row; NaN for what is not there."""
    values = [parts.get(name, torch.full_like(value, math.nan)) for name, value in sorted(like.items())]
    return torch.cat([value.float().flatten() for value in values])


def require_learned(source: Source) -> None:
    """Raises AdapterError where a module adds nothing, or no more than rounding does: it never learned."""
    kind, idle = method(source.adapter.kind), []
    for name, parts in source.modules.items():
        if not kind.delta_norm(parts) > _INAUDIBLE * math.sqrt(math.prod(kind.delta_shape(parts))):
            idle.append(name)
    if idle:
        raise AdapterError(
            f"{source.adapter.file} changes nothing at {len(idle)} of {len(source.modules)} modules, such as {idle[0]}",
            hint="Train it for at least one step.",
        )


class Listener:
    """The decoder's answer to ``ask`` in fp32: without the adapter, as trained, and as another program hears it."""

    @torch.no_grad()
    def __init__(self, source: Source, base: BaseWeights) -> None:
        self._source = source
        self._base = base
        self._decoder = load_dit(base.checkpoint)
        self._plain = ask(self._decoder)
        adapter = load_adapter(self._decoder, source.adapter.file)
        adapter.set_strength(source.strength)
        self._trained = ask(self._decoder)
        adapter.remove()

    @torch.no_grad()
    def error(self, written: Written) -> float:
        """|exported - trained| / |trained - base|"""
        for name, parts in written.heard.modules.items():
            weight = self._weight(name)
            weight += delta(parts, self._source.base_weight(name)).reshape(weight.shape)
        found = ask(self._decoder)
        for name in written.heard.modules:
            self._weight(name).copy_(self._base[name])
        return float((found - self._trained).norm() / (self._trained - self._plain).norm())

    def _weight(self, name: str) -> Tensor:
        weight: Any = self._decoder.get_submodule(original_to_diffusers(name)).weight
        return weight  # type: ignore[no-any-return]


def ask(decoder: nn.Module) -> Tensor:
    """[2, T, C] the decoder's answer to always the same question, two seconds at two times."""
    config: Any = decoder.config
    channels = config.audio_acoustic_hidden_dim
    width = config.encoder_hidden_size or config.hidden_size
    generator = torch.Generator().manual_seed(0)
    points, context, condition = (
        torch.randn(2, *shape, generator=generator)
        for shape in ((50, channels), (50, config.in_channels - channels), (16, width))
    )
    time = torch.tensor([0.3, 0.8])
    answer: Tensor = decoder(
        hidden_states=points,
        timestep=time,
        timestep_r=time,
        encoder_hidden_states=condition,
        context_latents=context,
        return_dict=False,
    )[0]
    return answer


def figures_of(found: Figures) -> Mapping[str, Any]:
    """As they go into the answer of a command."""
    return {"modules": found.modules, "delta_norm": [found.smallest, found.largest], "residual": found.residual}
