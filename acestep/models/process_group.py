"""The processes of one job: they make the same decisions, and no process waits forever for another.

All communication is one collective, ``all_gather``, which every process calls equally often and in the same order. A
process that fails sends its error with its next call, and the others raise it from theirs: out of memory, a full disk
or a bug in one process ends the job in all of them, between the same two steps, with the same message. The collective
uses gloo on the CPU and does not wait for the devices. A process that dies closes its connections, which makes the
call of the others fail too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, TypeVar

import torch
from loguru import logger
from torch import distributed

from acestep.core.errors import AceStepError, WorkerCrashed
from acestep.core.events import Event
from acestep.core.job_folder import Request
from acestep.core.jobs import Context
from acestep.core.launcher import SINGLE, Launch

T = TypeVar("T")

_SHARE_TIMEOUT = timedelta(days=1)


class ProcessGroup:
    """All processes of a job, as seen from one of them. A single process communicates at no cost."""

    def __init__(self, launch: Launch = SINGLE, timeout: timedelta | None = None) -> None:
        """Several processes require an initialized torch.distributed. ``timeout`` is that of a collective."""
        self.launch, self.rank, self.world_size = launch, launch.rank, launch.world_size
        self._group: Any = None
        if self.world_size > 1:
            from acestep.models.connect import collective_timeout  # PyTorch for some systems has no torch.distributed

            self._group = distributed.new_group(backend="gloo", timeout=timeout or collective_timeout(launch))
        self._disconnected = False  # a process has failed or is gone: no more collectives

    @classmethod
    def connect(cls, launch: Launch) -> ProcessGroup:
        """Connect processes that share songs: each works on its own share, for up to a day longer than the others.

        Raises:
            WorkerCrashed: not all processes were started.
        """
        if launch.world_size > 1:
            from acestep.models.connect import connect

            connect(launch, torch.device("cpu"))
        return cls(launch, _SHARE_TIMEOUT)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes files and logs."""
        return self.rank == 0

    def all_gather(self, value: T, problem: BaseException | None = None) -> list[T]:
        """The ``value`` of every process, by rank.

        Raises:
            BaseException: the ``problem`` of another process.
            WorkerCrashed: a process is gone.
        """
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        with self.requires_peers():
            distributed.all_gather_object(gathered, (value, self._portable(problem)), group=self._group)
        problems = [each for _, each in gathered if each is not None]
        self._disconnected = bool(problems)
        if problems and problem is None:
            raise problems[0]
        return [each for each, _ in gathered]

    def broadcast(self, choose: Callable[[], T]) -> T:
        """The result of ``choose`` on rank 0, for all processes."""
        return self.all_gather(choose() if self.is_main else None)[0]  # type: ignore[return-value]

    def shard(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """This process's shard of ``items``: every ``world_size``-th one, with True.

        All shards are equally long, so that the processes stay in step; padding repeats an item, with False.
        """
        rounds = -(-len(items) // self.world_size)
        numbers = [i * self.world_size + self.rank for i in range(rounds)]
        return [(items[number % len(items)], number < len(items)) for number in numbers]

    def gather(self, results: Sequence[T], count: int) -> list[T]:
        """The results of all ``count`` items, in order, from the results of each process's ``shard``."""
        return [result for row in zip(*self.all_gather(results), strict=True) for result in row][:count]

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """An error that ends the block in one process ends it in all; otherwise all leave it together."""
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
        """For a block that communicates with the other processes. Raises WorkerCrashed when one is gone."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as problem:
            if self.world_size == 1:
                raise
            self._disconnected = True
            raise WorkerCrashed(
                f"another process of this job is gone ({problem})",
                hint="See its log in workers/ of the job folder.",
            ) from problem

    def context(self, context: Context) -> Context:
        """A context in which only rank 0 emits events, and all processes stop and pause together."""
        values = {each.name: getattr(context, each.name) for each in fields(Context)}
        return context if self.world_size == 1 else _GroupContext(**values, processes=self)

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
