"""The transformer blocks compiled with ``torch.compile``, one graph for all blocks of a kind.

Importing this module does not load the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from acestep.models.attention import WindowMask
from acestep.models.device import under_autocast

BACKEND = "inductor"
_MAX_GRAPHS = 64  # the default of 8 is too few for adapters with several ranks


class CompiledBlocks:
    """Calls blocks through compiled code in training steps of one shape, and eagerly otherwise.

    Evaluations, audio previews and batches of another shape run eagerly: each new shape would be compiled anew.

    Attributes:
        failure: why the compiler failed, or "". Blocks run eagerly from then on.
        on_failure: called with ``failure``.
    """

    def __init__(self, batch_size: int, num_tokens: int, *, groups: int) -> None:
        """``num_tokens`` is that of the hidden states, ``groups`` the number of query heads per key head."""
        import torch._dynamo
        import torch._functorch.config

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MAX_GRAPHS)
        # A backward pass that cannot be compiled must fail here, where the block can still run eagerly.
        torch._functorch.config.force_non_lazy_backward_lowering = True
        self._shape, self._groups = (batch_size, num_tokens), groups
        self.failure = ""
        self.on_failure: Callable[[str], None] = lambda reason: None
        # CUDA graphs would return memory that the next block overwrites while the backward pass still needs it.
        self._compiled: Any = torch.compile(_call, backend=BACKEND, dynamic=False, fullgraph=True)

    def __call__(self, block: Any, hidden_states: Tensor, *shared: Any) -> Any:
        """The output of ``block``."""
        if self._compiled is None or not torch.is_grad_enabled() or hidden_states.shape[:2] != self._shape:
            return block(hidden_states, *shared)
        for mask in shared:
            if isinstance(mask, WindowMask):  # made before, so that all blocks find it
                mask.bias(self._shape[0], self._groups, _compute_dtype(hidden_states))
        try:
            return self._compiled(block, hidden_states, *shared)
        except torch.OutOfMemoryError:
            raise
        except compiler_errors() as problem:
            self._compiled, self.failure = None, describe(problem)
            self.on_failure(self.failure)
            return block(hidden_states, *shared)


def missing_compiler(device: torch.device) -> str:
    """Why nothing can be compiled for ``device``, or ""."""
    if device.type != "cuda" or BACKEND != "inductor":
        return ""
    from torch.utils._triton import has_triton

    return "" if has_triton() else "Triton is not installed, or does not support this GPU"


def compiler_errors() -> tuple[type[Exception], ...]:
    """What the compiler raises when it cannot compile."""
    from torch._dynamo.exc import TorchDynamoException

    return (TorchDynamoException,)


def describe(problem: Exception) -> str:
    """The first two lines of the message: the compiler's and its cause."""
    text = " ".join(str(problem).splitlines()[:2])
    return f"{type(problem).__name__}: {text:.300}"


def _call(block: Any, hidden_states: Tensor, *shared: Any) -> Any:
    return block(hidden_states, *shared)


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype(x.device.type) if under_autocast(x.device) else x.dtype
