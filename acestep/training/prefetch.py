"""Two ways to keep a GPU from waiting for its data: the dataset in its memory, or batches drawn in advance."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from acestep.tensors.record import TensorRecord
from acestep.tensors.tensor_file import TensorFile
from acestep.training.data import TrainingSample
from acestep.training.flow_matching import Batch

Draw = Callable[[list[int], int], Batch]
"""Gives the batch of the samples with these indices in an epoch."""

_AHEAD = 2  # batches: one waits for the device while the next one is drawn


def prefetching_pays(device: torch.device) -> bool:
    """Whether drawing in advance saves time: on a CPU the thread would take it from the computation."""
    return device.type != "cpu"


@contextmanager
def prefetched(draw: Draw, upcoming: Iterable[tuple[list[int], int]]) -> Iterator[Draw]:
    """Within the block, gives a function that returns what ``draw`` does, from a thread that calls it in advance.

    A batch that is not the next one of ``upcoming``, such as when a step is repeated, is drawn at once. An error of
    ``draw`` is raised when its batch is requested. The thread ends with the block.
    """
    requests = iter(upcoming)
    waiting: deque[tuple[tuple[list[int], int], Future[Batch]]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as thread:

        def fill() -> None:
            while len(waiting) < _AHEAD and (request := next(requests, None)) is not None:
                waiting.append((request, thread.submit(draw, *request)))

        def drawn(samples: list[int], epoch: int) -> Batch:
            if not waiting or waiting[0][0] != (samples, epoch):
                return draw(samples, epoch)
            _, future = waiting.popleft()
            fill()
            return future.result()

        try:
            fill()
            yield drawn
        finally:
            thread.shutdown(wait=True, cancel_futures=True)


def hold_on_device(
    samples: Sequence[TrainingSample], device: torch.device, report: Callable[[int, int], None]
) -> list[TrainingSample]:
    """The samples with their tensors on ``device``; silent contexts are shared. Calls ``report(done, total)``.

    Raises:
        TensorError: a file cannot be read.
    """
    contexts: dict[int, Tensor] = {}  # by the id of the silent context on the CPU
    held = []
    for number, sample in enumerate(samples, start=1):
        latents, context, condition = sample.record.crop()
        silence = sample.record.silence if isinstance(sample.record, TensorFile) else None
        if silence is None:
            context = context.to(device)
        else:
            if id(silence) not in contexts:
                contexts[id(silence)] = silence.to(device)
            context = contexts[id(silence)][: len(latents)]
        record = TensorRecord(latents.to(device), context, condition.to(device), sample.record.metadata)
        held.append(replace(sample, record=record))
        report(number, len(samples))
    return held
