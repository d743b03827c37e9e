"""Records the operators that PyTorch runs, and on which tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Operations(TorchDispatchMode):
    """The operators of a block of code, also those of its backward passes on the CPU.

    Attributes:
        started: all operators, including one that raised an error.
        calls: operators with the tensors that they took and gave.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started: set[Any] = set()
        self.calls: list[tuple[Any, list[Tensor], list[Tensor]]] = []

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.started.add(operator)
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        result = operator(*args, **(kwargs or {}))
        self.calls.append((operator, given, [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]))
        return result

    def on_other_devices(self, device: str) -> list[str]:
        """Operators that touch a tensor elsewhere, unless it is empty or a number without dimensions."""
        return self._with(lambda tensor: tensor.device.type != device and tensor.numel() > 0)

    def in_float64(self) -> list[str]:
        """Operators that touch a tensor in float64, unless it is a number without dimensions."""
        return self._with(lambda tensor: tensor.dtype == torch.float64)

    def _with(self, wanted: Any) -> list[str]:
        return [
            f"{operator} {tensor.dtype} {tensor.device} {list(tensor.shape)}"
            for operator, given, made in self.calls
            for tensor in (*given, *made)
            if tensor.dim() > 0 and wanted(tensor)
        ]
