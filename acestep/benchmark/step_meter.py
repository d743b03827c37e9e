"""Times the steps of a training loop, and then counts what further steps do."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Self

import torch

from acestep.benchmark.compare import Round, Work
from acestep.benchmark.counters import KernelCounter, OperationCounter, flop_counter, matmul_flops_per_s
from acestep.training.flow_matching import Batch

WARM_UP_STEPS = 2  # they load kernels and fill caches, and are not counted
MakeBatch = Callable[[list[int], int], Batch]


class StepMeter(AbstractContextManager["StepMeter"]):
    """A ``Callback`` of the training loop. It ends the loop after ``steps`` timed steps and those that are counted.

    Args:
        micro_batches: number of micro-batches of each step.
        count: also count operations, after the timed steps: counting slows a step down.
    """

    def __init__(self, device: torch.device, steps: int, *, micro_batches: int, count: bool) -> None:
        self._device, self._steps, self._micro_batches = device, WARM_UP_STEPS + steps, micro_batches
        self._times: list[float] = []
        self._operations, self._flops, self._kernels = OperationCounter(device), flop_counter(), KernelCounter()
        counters: list[AbstractContextManager[Any]] = [self._operations, self._flops]
        self._pending = [*counters, *([self._kernels] if device.type == "cuda" else [])] if count else []
        self._counted = bool(self._pending)
        self._active = ExitStack()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._last = time.perf_counter()

    def __enter__(self) -> Self:
        self._last = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._active.close()

    def make_batch(self, make_batch: MakeBatch) -> MakeBatch:
        """``make_batch``, the operations of which are not counted."""

        def uncounted(samples: list[int], epoch: int) -> Batch:
            with self._operations.paused():
                return make_batch(samples, epoch)

        return uncounted

    def after_step(self, report: object = None) -> bool:
        """To be called between two steps; True ends the loop."""
        del report
        now = time.perf_counter()
        self._active.close()
        if len(self._times) < self._steps:
            self._times.append(now - self._last)
            self._last = now
        if len(self._times) < self._steps:
            return False
        if not self._pending:
            return True
        self._active.enter_context(self._pending.pop(0))
        return False

    def measured(self, songs: int, dtype: torch.dtype) -> Round:
        """The result for steps of ``songs`` songs that compute in ``dtype``. Measures a matrix product in it."""
        peak = torch.cuda.max_memory_allocated(self._device) / 2**30 if self._device.type == "cuda" else None
        return Round(self._times[WARM_UP_STEPS:], songs, peak, self._work(dtype) if self._counted else None)

    def _work(self, dtype: torch.dtype) -> Work:
        kernels = self._kernels.kernels
        return Work(
            flops=self._flops.get_total_flops(),
            matmul_flops_per_s=matmul_flops_per_s(self._device, dtype),
            dispatches=round(self._operations.dispatches / self._micro_batches),
            host_waits=self._operations.host_reads,
            kernels=None if kernels is None else round(kernels / self._micro_batches),
        )
