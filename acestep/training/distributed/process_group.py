"""The processes of one run: what they tell each other, so that they do the same and none waits for ever.

There is one way to speak: a meeting, where each says a thing and hears all. Every process comes to the same
meetings in the same order. Whoever cannot go on says so at its next one, and the others hear it at theirs, whatever
they came for; so a full memory, a full disk or a fault of one ends the run of all at the same border, in words.
Meetings go over the CPU and do not wait for the devices. A process that dies closes its connections, which ends the
meeting of the others too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from lightning_fabric import Fabric
from loguru import logger
from torch import distributed

from acestep.core.errors import AceStepError, WorkerCrashed
from acestep.core.events import Event
from acestep.core.job_folder import Request
from acestep.core.jobs import Context
from acestep.training.distributed.placement import PATIENCE

T = TypeVar("T")


class ProcessGroup:
    """All processes of a run, as one of them sees it. Alone it does everything, and meetings cost nothing."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        """For a ``size`` above 1 torch.distributed is set up already."""
        self.rank, self.world_size = rank, world_size
        self._group: Any = distributed.new_group(backend="gloo", timeout=PATIENCE) if world_size > 1 else None
        self._disconnected = False  # one has said that it cannot go on, or has gone: there are no more meetings

    @classmethod
    def of(cls, fabric: Fabric) -> ProcessGroup:
        return cls(fabric.global_rank, fabric.world_size)

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def all_gather(self, word: T, problem: BaseException | None = None) -> list[T]:
        """What each of them says, in the order of their ranks.

        Raises:
            BaseException: the problem that another one told.
            WorkerCrashed: one is gone.
        """
        if self.world_size == 1:
            return [word]
        said: list[Any] = [None] * self.world_size
        with self.requires_peers():
            distributed.all_gather_object(said, (word, self._portable(problem)), group=self._group)
        problems = [each for _, each in said if each is not None]
        self._disconnected = bool(problems)
        if problems and problem is None:
            raise problems[0]
        return [each for each, _ in said]

    def broadcast(self, choose: Callable[[], T]) -> T:
        """What the first one chooses, for all."""
        return self.all_gather(choose() if self.is_main else None)[0]  # type: ignore[return-value]

    def shard(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """This process's part of ``items``, every ``size``-th. All get equally many, so that what they do together
        comes out even: for that an item may come once more, with False."""
        rounds = -(-len(items) // self.world_size)
        numbers = [i * self.world_size + self.rank for i in range(rounds)]
        return [(items[number % len(items)], number < len(items)) for number in numbers]

    def gather(self, results: Sequence[T], count: int) -> list[T]:
        """From each one's results of its ``share`` those of all ``count`` items, in order."""
        return [result for together in zip(*self.all_gather(results), strict=True) for result in together][:count]

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """The block ends for all when it ends for one, and when it ends well, then for all at the same time."""
        try:
            yield
        except BaseException as problem:
            if not self._disconnected:
                with suppress(WorkerCrashed):
                    self.all_gather(None, problem)
            raise
        self.all_gather(None)
        if self.world_size > 1:
            distributed.destroy_process_group()

    @contextmanager
    def requires_peers(self) -> Iterator[None]:
        """Inside the block all processes work together. Raises WorkerCrashed when one is gone."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as problem:
            if self.world_size == 1:
                raise
            self._disconnected = True
            raise WorkerCrashed(
                f"another process of this run is gone ({problem})", hint="Its folder says why, below workers/."
            ) from problem

    def context(self, context: Context) -> Context:
        """Where the first one alone speaks, and all stop and wait together."""
        return context if self.world_size == 1 else _GroupContext(context.folder, context.whole, processes=self)

    def _portable(self, problem: BaseException | None) -> BaseException | None:
        if problem is None or isinstance(problem, AceStepError | torch.OutOfMemoryError):
            return problem
        return WorkerCrashed(f"process {self.rank + 1} of {self.world_size} failed: {problem!r}")


SINGLE_PROCESS = ProcessGroup()


@dataclass(frozen=True)
class _GroupContext(Context):
    processes: ProcessGroup = field(kw_only=True)

    def emit(self, event: Event) -> None:
        if self.processes.is_main:
            super().emit(event)
        else:
            logger.info("{}", event)

    def requested(self, request: Request) -> bool:
        return any(self.processes.all_gather(super().requested(request)))
