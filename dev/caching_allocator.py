"""Simulates what PyTorch's caching allocator for CUDA reserves for a sequence of tensors.

Sizes are rounded to 512 bytes; those up to 1 MiB come from segments of 2 MiB, those below 10 MiB from segments of
20 MiB, larger ones from segments of their own in multiples of 2 MiB. The smallest free block that is large enough is
used and split if enough is left (c10/cuda/CUDACachingAllocator.cpp of PyTorch 2.11, with default settings). Segments
are never returned here; the allocator returns unused ones before it reports that memory has run out.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

from torch import Tensor

from tests.live_bytes import LiveBytes

_MIB = 2**20
_UNIT = 512
_SMALL = _MIB  # the largest size of the pool of small blocks


@dataclass(slots=True, eq=False)
class Block:
    """Part of a segment, with its neighbors in it."""

    size: int
    small: bool
    before: Block | None = field(default=None, repr=False)
    after: Block | None = field(default=None, repr=False)
    is_free: bool = True

    def __lt__(self, other: Block) -> bool:
        return id(self) < id(other)


@dataclass(slots=True)
class CachingAllocator:
    """``reserved`` is the number of bytes of all segments so far."""

    reserved: int = 0
    _free: dict[bool, list[tuple[int, Block]]] = field(default_factory=lambda: {True: [], False: []})

    def allocate(self, num_bytes: int) -> Block:
        size = max(_UNIT, -(-num_bytes // _UNIT) * _UNIT)
        small = size <= _SMALL
        free = self._free[small]
        place = bisect.bisect_left(free, (size,))
        block = free.pop(place)[1] if place < len(free) else self._segment(size, small)
        self._split(block, size)
        block.is_free = False
        return block

    def release(self, block: Block) -> None:
        """Free a block and merge it with free neighbors."""
        block.is_free = True
        for neighbor in (block.before, block.after):
            if neighbor is not None and neighbor.is_free:
                free = self._free[neighbor.small]
                free.pop(bisect.bisect_left(free, (neighbor.size, neighbor)))
                self._merge(block, neighbor)
        bisect.insort(self._free[block.small], (block.size, block))

    def _segment(self, size: int, small: bool) -> Block:
        large = 20 * _MIB if size < 10 * _MIB else -(-size // (2 * _MIB)) * 2 * _MIB
        block = Block(2 * _MIB if small else large, small)
        self.reserved += block.size
        return block

    def _split(self, block: Block, size: int) -> None:
        rest = block.size - size
        if rest < _UNIT or (not block.small and rest <= _SMALL):
            return
        other = Block(rest, block.small, block, block.after)
        if block.after is not None:
            block.after.before = other
        block.after, block.size = other, size
        bisect.insort(self._free[block.small], (rest, other))

    @staticmethod
    def _merge(block: Block, neighbor: Block) -> None:
        block.size += neighbor.size
        if neighbor is block.after:
            block.after = neighbor.after
            if block.after is not None:
                block.after.before = block
        else:
            block.before = neighbor.before
            if block.before is not None:
                block.before.after = block


class AllocatedBytes(LiveBytes):
    """Counts live bytes and simulates the allocator for them."""

    def __init__(self) -> None:
        super().__init__()
        self.allocator = CachingAllocator()
        self._blocks: dict[int, Block] = {}

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._sizes and storage.nbytes():
            self._blocks[storage._cdata] = self.allocator.allocate(storage.nbytes())
        super().count(tensor)

    def _forget(self, key: int) -> None:
        super()._forget(key)
        if key in self._blocks:
            self.allocator.release(self._blocks.pop(key))
