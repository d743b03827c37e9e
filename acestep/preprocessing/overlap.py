"""Loading, computing and writing overlap across samples.

    loading threads  --at most ``ahead`` samples-->  this thread  --one sample-->  writing thread

The models run in the calling thread, in dataset order. On a GPU, decoding takes longer than the VAE, so several threads
decode in advance. On a CPU, the VAE uses all cores for more than 95 % of the time, and decoding waits for its turn:
more threads than cores slow each other down, and fewer threads for the VAE would change the rounding of its results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, Self, TypeVar

import torch

from acestep.models.device import compute_on_one_thread

T = TypeVar("T")  # a sample
L = TypeVar("L")  # what is loaded for it
W = TypeVar("W")  # what writing it returns

_MAX_LOADERS = 4  # songs of 4 minutes take 90 MB each


def songs_ahead(device: str) -> int:
    """The number of samples to load while another one is computed on ``device``: 0 on a CPU."""
    return 0 if torch.device(device).type == "cpu" else min(_MAX_LOADERS, torch.get_num_threads())


class Loader(Generic[T, L]):
    """Loads samples in background threads, in order and at most ``ahead`` before they are needed.

    At least the first sample is loaded as soon as the ``with`` block is entered. Iterating yields each sample with its
    future.
    """

    def __init__(self, samples: Sequence[T], load: Callable[[T], L], *, ahead: int) -> None:
        self._samples, self._load, self._ahead = samples, load, ahead
        self._queue: deque[Future[L]] = deque()
        self._num_submitted = 0
        self._pool = ThreadPoolExecutor(
            max(ahead, 1), "load", initializer=compute_on_one_thread, initargs=(torch.get_num_threads(),)
        )

    def __enter__(self) -> Self:
        self._submit_until(max(self._ahead, 1))
        return self

    def __iter__(self) -> Iterator[tuple[T, Future[L]]]:
        for number, sample in enumerate(self._samples, start=1):
            self._submit_until(number + self._ahead)
            yield sample, self._queue.popleft()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _submit_until(self, number: int) -> None:
        for sample in self._samples[self._num_submitted : number]:
            self._queue.append(self._pool.submit(self._load, sample))
            self._num_submitted += 1


class Writer(Generic[T, W]):
    """Writes the result of one sample in a background thread while the next one is computed.

    Leaving the ``with`` block waits for the last one, also after an error.

    Args:
        report: called in this thread with each sample and its future, in the order of ``submit``.
    """

    def __init__(self, report: Callable[[T, Future[W]], None]) -> None:
        self._report = report
        self._current: tuple[T, Future[W]] | None = None
        self._pool = ThreadPoolExecutor(1, "write")

    def submit(self, sample: T, write: Callable[[], W]) -> None:
        """Call ``write`` in the background. Waits until the previous one has finished and is reported."""
        self.finish()
        self._current = sample, self._pool.submit(write)

    def report_finished(self) -> None:
        """Report the current sample if it is written. Does not wait."""
        if self._current and self._current[1].done():
            self.finish()

    def finish(self) -> None:
        """Wait for the current sample and report it. Raises the error of ``report``."""
        current, self._current = self._current, None
        if current:
            wait([current[1]])
            self._report(*current)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finish()
        finally:
            self._pool.shutdown()
