"""Optimizers and what the program knows about each. Importing this module does not import torch.

If the package of an optimizer is missing or does not work on the device, creating the optimizer fails with a hint; the
program never substitutes another optimizer.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acestep.core.errors import MissingPackage
from acestep.core.registry import Entry, Registry
from acestep.training.optim import optimizer_memory as memory

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer

MakeOptimizer = Callable[["list[Parameter]", float, float], "Optimizer"]  # (parameters, peak learning rate, decay)

DEFAULT_RATE = 1e-4


@dataclass(frozen=True, kw_only=True)
class OptimizerEntry(Entry[MakeOptimizer]):
    """Facts about an optimizer.

    Attributes:
        learning_rate: the default.
        min_learning_rate: values up to this one are meant for other optimizers, so the default is used instead.
        adapts_lr: it finds the learning rate itself, so the schedule stays constant after the warm-up.
        state_bytes: (shapes of the trained matrices) -> bytes of state.
        step_bytes: (shapes, device type) -> bytes of temporary buffers in a step.
        flat: it gives the same result over one flat parameter that holds all of them, which is faster.
        low_memory: the memory advice proposes it to runs that do not fit.
        unsupported: device types without kernels for it.
    """

    learning_rate: float = DEFAULT_RATE
    min_learning_rate: float = 0.0
    adapts_lr: bool = False
    state_bytes: memory.StateBytes | None = None
    step_bytes: memory.StepBytes | None = None
    flat: bool = False
    low_memory: bool = False
    unsupported: tuple[str, ...] = ()


OPTIMIZERS: Registry[OptimizerEntry] = Registry("optimizer", OptimizerEntry)

OPTIMIZERS.register(
    "adamw",
    target="acestep.training.optim.optimizers:adamw",
    label="AdamW",
    help="A good default.",
    state_bytes=memory.adamw_state,
    step_bytes=memory.adamw_step,
    flat=True,
)
OPTIMIZERS.register(
    "adamw8bit",
    target="acestep.training.optim.optimizers:adamw8bit",
    label="AdamW 8-bit",
    help="AdamW with a quarter of the optimizer state.",
    state_bytes=memory.adamw8bit_state,
    step_bytes=memory.single_step,
    low_memory=True,
    unsupported=("mps",),
)
OPTIMIZERS.register(
    "adafactor",
    target="acestep.training.optim.optimizers:adafactor",
    label="Adafactor",
    help="The smallest optimizer state; converges a little more slowly.",
    state_bytes=memory.adafactor_state,
    step_bytes=memory.single_step,
    low_memory=True,
)
OPTIMIZERS.register(
    "prodigy",
    target="acestep.training.optim.optimizers:prodigy",
    label="Prodigy",
    help="Adapts the learning rate itself; leave the learning rate empty.",
    learning_rate=1.0,
    min_learning_rate=1e-3,
    adapts_lr=True,
    state_bytes=memory.prodigy_state,
    step_bytes=memory.prodigy_step,
    flat=True,
)


def peak_lr(name: str, requested: float | None) -> float:
    """The peak learning rate: ``requested``, or the default of optimizer ``name``. Raises UnknownName."""
    entry = OPTIMIZERS[name]
    return entry.learning_rate if requested is None or requested <= entry.min_learning_rate else requested


def make_optimizer(name: str, parameters: Iterable[Parameter], *, lr: float, weight_decay: float) -> Optimizer:
    """The optimizer ``name`` over ``parameters``. Raises UnknownName, MissingPackage."""
    entry, trained = OPTIMIZERS[name], list(parameters)
    make = entry.load()
    if not entry.flat:
        return make(trained, lr, weight_decay)
    from acestep.training.optim.flat_parameters import FlatOptimizer

    return FlatOptimizer(trained, lambda flat: make(flat, lr, weight_decay))


def adamw(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    from torch.optim import AdamW

    return AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


def adamw8bit(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    made_by = _package("bitsandbytes", "bitsandbytes.optim").AdamW8bit
    _require_kernels(made_by, parameters[0], "bitsandbytes")
    optimizer: Optimizer = made_by(parameters, lr=lr, weight_decay=weight_decay)
    return optimizer


def adafactor(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    from transformers.optimization import Adafactor

    optimizer: Optimizer = Adafactor(  # type: ignore[no-untyped-call]
        parameters, lr=lr, weight_decay=weight_decay, scale_parameter=False, relative_step=False, warmup_init=False
    )
    return optimizer


def prodigy(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    with redirect_stdout(io.StringIO()):  # the constructor prints, which would mix with the command line's output
        optimizer: Optimizer = _package("prodigyopt").Prodigy(
            parameters,
            lr=lr,
            weight_decay=weight_decay,
            safeguard_warmup=True,
            use_bias_correction=True,
            slice_p=1,  # its statistics over every n-th element would depend on how the parameters are laid out
        )
    return optimizer


def _package(package: str, module: str | None = None) -> Any:
    try:
        return importlib.import_module(module or package)
    except ImportError as problem:
        raise MissingPackage(
            f"this optimizer needs {package}, which cannot be loaded: {problem}",
            hint=f"Install it with: pip install {package}. Or choose another optimizer.",
        ) from None


def _require_kernels(make: Callable[..., Any], like: Parameter, package: str) -> None:
    """Take one step with a temporary parameter on the device of ``like``. Raises MissingPackage if that fails."""
    import torch

    probe = torch.nn.Parameter(torch.zeros(4096, device=like.device))
    probe.grad = torch.zeros_like(probe)
    try:
        make([probe]).step()
    except (RuntimeError, NotImplementedError, AttributeError, OSError) as problem:
        raise MissingPackage(
            f"{package} does not work on {like.device}: {problem}", hint="Choose another optimizer, such as adamw."
        ) from None
