"""Compiled blocks are used only if their gradients match those of eager execution on this computer.

The loss is no proof: compiled code was seen whose loss agreed while its gradients were 4 % off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from acestep.models.compiled import CompiledBlocks, describe
from acestep.models.dit import AceStepDiT, run_eagerly

TOLERANCE = 1e-4  # relative error of the gradient of each parameter, or twice the error of rounding if that is larger
_OTHER_ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]  # rounds differently; the second one on a CPU
_NOISE = 0.01  # added to the parameters: those that start at zero would hide the gradients of others


def use_if_equal(
    decoder: AceStepDiT,
    blocks: CompiledBlocks,
    parameters: Sequence[nn.Parameter],
    losses: Callable[[], Tensor],
) -> str:
    """Let ``decoder`` run ``blocks`` if the gradients match. Gives the reason if they do not, or "".

    ``losses`` calls the model with a real batch. Parameters and gradients are unchanged afterwards.
    """

    def gradients(*, other_attention: bool = False) -> list[Tensor]:
        with sdpa_kernel(_OTHER_ATTENTION, set_priority=True) if other_attention else nullcontext():
            return list(torch.autograd.grad(losses().sum(), parameters, allow_unused=False))

    reason = ""
    with _noise_added(parameters):
        try:
            with _without_dropout(decoder):
                eager = gradients()
                rounding = _error(gradients(other_attention=True), eager)
                decoder.run_block = blocks
                error = _error(gradients(), eager)
            gradients()  # compiles what the steps use, with dropout
        except torch.OutOfMemoryError:
            reason = "there is not enough memory to check the compiled code"
        except (RuntimeError, OSError, ImportError, AttributeError, TypeError) as problem:  # of the compiler
            reason = describe(problem)
        else:
            reason = blocks.failure
            if not reason and not error <= max(TOLERANCE, 2 * rounding):
                reason = f"its gradients are {error:.1e} off, more than {max(TOLERANCE, 2 * rounding):.1e}"
    if reason:
        decoder.run_block = run_eagerly
    return reason


def _error(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest relative error of the gradient of a parameter."""
    errors = [(f - e).norm() / e.norm().clamp_min(1e-30) for f, e in zip(found, expected, strict=True)]
    return float(torch.stack(errors).nan_to_num(torch.inf).max())


@contextmanager
def _without_dropout(decoder: nn.Module) -> Iterator[None]:
    modules = [module for module in decoder.modules() if isinstance(module, nn.Dropout)]
    before = [module.p for module in modules]
    try:
        for module in modules:
            module.p = 0.0
        yield
    finally:
        for module, p in zip(modules, before, strict=True):
            module.p = p


@contextmanager
@torch.no_grad()
def _noise_added(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.add_(torch.randn_like(parameter), alpha=_NOISE)
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.copy_(value)
