"""Chooses gradient checkpointing, quantization and the place of the dataset by the memory estimate and the free memory.

Start check, ``memory``, the memory panel of the page and the run itself all use ``choose``. Gradient checkpointing and
the place of the dataset do not change the result of a run, so a resumed run chooses again; quantization does, so a
resumed run keeps it.
Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from acestep.training.memory.estimate import GIB, Estimate, estimate
from acestep.training.memory.spec import PACKED, MemorySpec

SPARE = 0.1
"""Share of the free memory that an automatic choice leaves unused: estimates and free memory are not exact."""

CHECKPOINTING = (8, 6, 4, 3, 2, 1)
"""Every n-th layer, from the mildest."""

_ORDINALS = {1: "every layer", 2: "every 2nd layer", 3: "every 3rd layer"}


@dataclass(frozen=True, slots=True)
class Choices:
    """The settings that depend on memory, with the reason of each.

    Attributes:
        spec: the run with these choices.
        checkpointing_reason, base_reason: why, for the user.
        dataset_reason: likewise; "" if there is no choice, because the device has no memory of its own.
    """

    spec: MemorySpec
    checkpointing_reason: str
    base_reason: str
    dataset_reason: str = ""

    @property
    def checkpointing(self) -> str:
        """``off``, ``every 2nd layer`` and so on."""
        return checkpointing_of(self.spec)

    @property
    def base_precision(self) -> str:
        """The setting that this choice stands for: ``auto`` if the base model is not quantized."""
        return self.spec.base if self.spec.base in PACKED else "auto"

    @property
    def recorded(self) -> dict[str, str]:
        """What the settings of these names were resolved to, for the record of the run."""
        return {"gradient_checkpointing": self.checkpointing, "base_precision": self.base_precision}

    @property
    def messages(self) -> tuple[str, ...]:
        """Each choice with its reason, as a line."""
        lines = (
            f"gradient checkpointing {self.checkpointing}: {self.checkpointing_reason}",
            f"base model in {self.spec.base}: {self.base_reason}",
        )
        if not self.dataset_reason:
            return lines
        where = "in the memory of the device" if self.spec.dataset_on_device else "read from its files in advance"
        return (*lines, f"dataset {where}: {self.dataset_reason}")


def choose(spec: MemorySpec, free: float | None, *, recorded_base: str | None = None) -> Choices:
    """The choices for a device with ``free`` bytes; None if unknown.

    Args:
        recorded_base: ``base_precision`` of the choices that a resumed run began with.
    """
    spec, base_reason = _with_base(spec, free, recorded_base)
    spec, checkpointing_reason = _with_checkpointing(replace(spec, auto_base=False), free)
    spec, dataset_reason = _with_dataset(spec, free)
    return Choices(spec, checkpointing_reason, base_reason, dataset_reason)


def _with_checkpointing(spec: MemorySpec, free: float | None) -> tuple[MemorySpec, str]:
    """``spec`` with as little gradient checkpointing as makes the run fit, and the reason."""
    if not spec.auto_checkpointing:
        return spec, "as requested"
    if free is None:
        return replace(spec, checkpoint_every=1, auto_checkpointing=False), "the free memory is not known"
    chosen = next((option for option in _options(spec) if _fits(option, free)), _cheapest(spec))
    chosen, need = replace(chosen, auto_checkpointing=False), estimate(chosen)
    reason = f"{_gb(need)} of {free / GIB:.1f} GB free"
    if chosen.checkpoint_every:
        reason += f", {_gb(estimate(spec))} without it"
    if not _fits(chosen, free):
        reason += ": memory may run out" if need.fits(free) else ": memory will probably run out"
    return chosen, reason


def _with_dataset(spec: MemorySpec, free: float | None) -> tuple[MemorySpec, str]:
    """``spec`` with the dataset in the memory of the device if it fits beside everything else, and the reason."""
    if not spec.has_own_memory or not spec.dataset_bytes:
        return spec, ""
    if free is None:
        return spec, "the free memory is not known"
    size, held = f"{spec.dataset_bytes / GIB:.1f} GB", replace(spec, dataset_on_device=True)
    if _fits(held, free):
        return held, f"its {size} fit beside the run"
    return spec, f"its {size} do not fit beside the run"


def _with_base(spec: MemorySpec, free: float | None, recorded: str | None) -> tuple[MemorySpec, str]:
    """``spec`` with its base model quantized if nothing else makes the run fit, and the reason."""
    if recorded is not None:
        return replace(spec, base=recorded if recorded in PACKED else spec.base), "as when the run began"
    if not (spec.auto_base and spec.may_quantize):
        return spec, "as requested" if spec.base in PACKED else "the precision of the computation"
    if free is None:
        return spec, "the free memory is not known"
    bases = [spec, *(replace(spec, base=base) for base in PACKED)]
    chosen = next((option for option in bases if _fits(_cheapest(option), free)), bases[-1])
    if chosen is spec:
        return spec, "it fits"
    return chosen, f"in {spec.base} the run needs {_gb(estimate(_cheapest(spec)))} of {free / GIB:.1f} GB free"


def _options(spec: MemorySpec) -> Iterator[MemorySpec]:
    """``spec`` with no gradient checkpointing, and with more and more of it."""
    yield spec
    for every in CHECKPOINTING:
        yield replace(spec, checkpoint_every=every)
    if spec.has_own_memory and not spec.sharded:
        yield replace(spec, checkpoint_every=1, offload=True)


def _cheapest(spec: MemorySpec) -> MemorySpec:
    """``spec`` with the gradient checkpointing that needs least memory, if that may be chosen."""
    return list(_options(spec))[-1] if spec.auto_checkpointing else spec


def _fits(spec: MemorySpec, free: float) -> bool:
    return estimate(spec).fits((1 - SPARE) * free)


def checkpointing_of(spec: MemorySpec) -> str:
    """A description of the gradient checkpointing of a run, for messages."""
    if not spec.checkpoint_every:
        return "off"
    return f"on {nth_layer(spec.checkpoint_every)}{', with its input in CPU memory' if spec.offload else ''}"


def nth_layer(every: int) -> str:
    """``every layer``, ``every 2nd layer`` and so on."""
    return _ORDINALS.get(every, f"every {every}th layer")


def _gb(need: Estimate) -> str:
    return f"{'at least ' if need.unknown else ''}{need.total / GIB:.1f} GB"
