"""Counts the bytes of the tensors that are alive, as a graphics card's allocator would count them.

On the CPU the memory of the process says little: it grows by more than the tensors and does not shrink again.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LiveBytes(TorchDispatchMode):
    """Counts each storage once, from the operation that makes or first uses it until nobody holds it any more.

    What a kernel takes for itself while it runs is not seen, and neither is a tensor that no operation touches.

    Attributes:
        now, peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were there before."""
        for tensor in tensors:
            self.count(tensor)
        self.peak = max(self.peak, self.now)

    def count(self, tensor: Tensor) -> None:
        """Count the storage of a tensor, unless it is counted already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            weakref.finalize(storage, self._forget, key)
        self.now += size - self._sizes.get(key, 0)
        self._sizes[key] = size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(part for part in tree_iter((result, args, kwargs)) if isinstance(part, Tensor) and not part.is_meta)
        return result

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)
