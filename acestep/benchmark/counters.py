"""Count what a training step does: operations, values read by the host, floating-point operations, GPU kernels."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

_ATEN = torch.ops.aten
_MATMUL_SIZE = {"cuda": 8192}  # a product of this size runs at the peak rate of the device
_MATMUL_SIZE_ELSEWHERE = 2048
_MATMUL_REPEATS = 9


class OperationCounter(AbstractContextManager["OperationCounter"]):
    """Counts the operations that PyTorch dispatches, and the values of tensors on ``device`` that the host reads.

    A read is ``item``, ``tolist``, ``float(tensor)`` and the like. On a GPU the host waits there. Reads of CPU tensors
    count only where ``device`` is the CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.dispatches = self.host_reads = 0
        self._device_type, self._paused = device.type, False
        self._modes = ExitStack()

    def __enter__(self) -> Self:
        self._modes.enter_context(_Functions(self))
        self._modes.enter_context(_Dispatches(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._modes.close()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside the block nothing is counted."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def count(self, *, read: object = None, dispatches: int = 0) -> None:
        """Count ``dispatches`` operations; ``read`` is the tensor whose values the host reads, if it does."""
        if not self._paused:
            self.dispatches += dispatches
            self.host_reads += isinstance(read, Tensor) and read.device.type == self._device_type


class _Functions(TorchFunctionMode):
    """Notices ``tolist`` and ``numpy``, which dispatch nothing on the CPU."""

    def __init__(self, counter: OperationCounter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        if func in (Tensor.tolist, Tensor.numpy) and args[0].numel() > 1:  # tolist of one element dispatches a read
            self._counter.count(read=args[0])
        return func(*args, **(kwargs or {}))


class _Dispatches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, counter: OperationCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counter = counter

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        is_read = func is _ATEN._local_scalar_dense.default
        self._counter.count(read=args[0] if is_read else None, dispatches=1)
        return func(*args, **(kwargs or {}))


def _attention_flops(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Two products over all pairs of a query and a key, whatever a mask excludes; key heads may be fewer."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _attention_backward_flops(
    _: Sequence[int], query: Sequence[int], key: Sequence[int], value: Sequence[int], *__: Any, **___: Any
) -> int:
    """Twice the forward pass, as for every product. A kernel that computes the scores again does more."""
    return 2 * _attention_flops(query, key, value)


def flop_counter() -> FlopCounterMode:
    """``FlopCounterMode`` that knows the attention kernels of the CPU too, and grouped key heads."""
    forward = [getattr(_ATEN, f"_scaled_dot_product_{kind}_attention") for kind in ("flash", "efficient", "cudnn")]
    backward = [getattr(_ATEN, f"{each._qualified_op_name.removeprefix('aten::')}_backward") for each in forward]
    cpu = _ATEN._scaled_dot_product_flash_attention_for_cpu
    cpu_backward = _ATEN._scaled_dot_product_flash_attention_for_cpu_backward
    formulas: dict[Any, Callable[..., int]] = dict.fromkeys([*forward, cpu], _attention_flops)
    formulas |= dict.fromkeys([*backward, cpu_backward], _attention_backward_flops)
    return FlopCounterMode(display=False, custom_mapping=formulas)


class KernelCounter(AbstractContextManager["KernelCounter"]):
    """Counts the kernels that run on a CUDA device. ``kernels`` is None until the block ends."""

    def __init__(self) -> None:
        self.kernels: int | None = None
        self._profile = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])

    def __enter__(self) -> Self:
        self._profile.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.cuda.synchronize()
        self._profile.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        events: Any = self._profile.events()  # type: ignore[no-untyped-call]
        self.kernels = sum(event.device_type.name == "CUDA" for event in events)


def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second that a large matrix product reaches, by the median of some repetitions."""
    size = _MATMUL_SIZE.get(device.type, _MATMUL_SIZE_ELSEWHERE)
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(_MATMUL_REPEATS):
        start = time.perf_counter()
        product = left @ right
        product[0, 0].item()  # waits for the device
        times.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(times)
