"""Optimizers: a new one is one registered function. Importing this module does not import torch.

A package that is missing or does not work here refuses with a hint; no optimizer stands in for another.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from acestep.core.errors import MissingPackage
from acestep.core.registry import Registry

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer

Maker = Callable[["list[Parameter]", float, float], "Optimizer"]  # (parameters, peak rate, weight decay)

OPTIMIZERS: Registry[Maker] = Registry("optimizer")

DEFAULT_RATE = 1e-4
SELF_TUNING = ("prodigy",)  # these find their own rate: the learning rate multiplies it and should be about 1
SELF_TUNING_RATE = 1.0
MISTAKEN_RATE = 1e-3  # at or below this, a rate was meant for the other optimizers (SPEC 3.5)


def peak_rate(name: str, learning_rate: float | None) -> float:
    """The rate to train with: what was asked for, else what suits the optimizer."""
    if name in SELF_TUNING:
        return SELF_TUNING_RATE if learning_rate is None or learning_rate <= MISTAKEN_RATE else learning_rate
    return DEFAULT_RATE if learning_rate is None else learning_rate


def make_optimizer(name: str, parameters: Iterable[Parameter], *, lr: float, weight_decay: float) -> Optimizer:
    """The optimizer ``name`` over ``parameters``. Raises UnknownName, MissingPackage."""
    return OPTIMIZERS[name].make(list(parameters), lr, weight_decay)


@OPTIMIZERS.register("adamw", label="AdamW", help="The safe choice.")
def adamw(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    from torch.optim import AdamW

    return AdamW(parameters, lr=lr, weight_decay=weight_decay)


@OPTIMIZERS.register("adamw8bit", label="AdamW 8-bit", help="AdamW with a quarter of the optimizer memory.")
def adamw8bit(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    made_by = _package("bitsandbytes", "bitsandbytes.optim").AdamW8bit
    _try_out(made_by, parameters[0], "bitsandbytes")
    optimizer: Optimizer = made_by(parameters, lr=lr, weight_decay=weight_decay)
    return optimizer


@OPTIMIZERS.register("adafactor", label="Adafactor", help="Least optimizer memory; learns a little more slowly.")
def adafactor(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    from transformers.optimization import Adafactor

    optimizer: Optimizer = Adafactor(  # type: ignore[no-untyped-call]
        parameters, lr=lr, weight_decay=weight_decay, scale_parameter=False, relative_step=False, warmup_init=False
    )
    return optimizer


@OPTIMIZERS.register("prodigy", label="Prodigy", help="Finds its own learning rate; leave the rate empty.")
def prodigy(parameters: list[Parameter], lr: float, weight_decay: float) -> Optimizer:
    with redirect_stdout(io.StringIO()):  # where it says how it decays weights, and the command line its answer
        optimizer: Optimizer = _package("prodigyopt").Prodigy(
            parameters, lr=lr, weight_decay=weight_decay, safeguard_warmup=True, use_bias_correction=True
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


def _try_out(make: Callable[..., Any], like: Parameter, package: str) -> None:
    """Take one step with a throw-away parameter on the device of ``like``: some devices lack the kernels."""
    import torch

    probe = torch.nn.Parameter(torch.zeros(4096, device=like.device))
    probe.grad = torch.zeros_like(probe)
    try:
        make([probe]).step()
    except (RuntimeError, NotImplementedError, AttributeError, OSError) as problem:
        raise MissingPackage(
            f"{package} does not work on {like.device}: {problem}", hint="Choose another optimizer, such as adamw."
        ) from None
