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
from lightning.fabric import Fabric
from loguru import logger
from torch import distributed

from acestep.core.errors import AceStepError, WorkerCrashed
from acestep.core.events import Event
from acestep.core.jobs import Context
from acestep.training.distributed.placement import PATIENCE

T = TypeVar("T")


class Team:
    """All processes of a run, as one of them sees it. Alone it does everything, and meetings cost nothing."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """For a ``size`` above 1 torch.distributed is set up already."""
        self.rank, self.size = rank, size
        self._table: Any = distributed.new_group(backend="gloo", timeout=PATIENCE) if size > 1 else None
        self._parted = False  # one has said that it cannot go on, or has gone: there are no more meetings

    @classmethod
    def of(cls, fabric: Fabric) -> Team:
        return cls(fabric.global_rank, fabric.world_size)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def meet(self, word: T, problem: BaseException | None = None) -> list[T]:
        """What each of them says, in the order of their ranks.

        Raises:
            BaseException: the problem that another one told.
            WorkerCrashed: one is gone.
        """
        if self.size == 1:
            return [word]
        said: list[Any] = [None] * self.size
        with self.others_needed():
            distributed.all_gather_object(said, (word, self._portable(problem)), group=self._table)
        problems = [each for _, each in said if each is not None]
        self._parted = bool(problems)
        if problems and problem is None:
            raise problems[0]
        return [each for each, _ in said]

    def decide(self, choose: Callable[[], T]) -> T:
        """What the first one chooses, for all."""
        return self.meet(choose() if self.first else None)[0]  # type: ignore[return-value]

    def share(self, items: Sequence[T]) -> list[tuple[T, bool]]:
        """This process's part of ``items``, every ``size``-th. All get equally many, so that what they do together
        comes out even: for that an item may come once more, with False."""
        rounds = -(-len(items) // self.size)
        numbers = [i * self.size + self.rank for i in range(rounds)]
        return [(items[number % len(items)], number < len(items)) for number in numbers]

    def gather(self, results: Sequence[T], count: int) -> list[T]:
        """From each one's results of its ``share`` those of all ``count`` items, in order."""
        return [result for together in zip(*self.meet(results), strict=True) for result in together][:count]

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """The block ends for all when it ends for one, and when it ends well, then for all at the same time."""
        try:
            yield
        except BaseException as problem:
            if not self._parted:
                with suppress(WorkerCrashed):
                    self.meet(None, problem)
            raise
        self.meet(None)
        if self.size > 1:
            distributed.destroy_process_group()

    @contextmanager
    def others_needed(self) -> Iterator[None]:
        """Inside the block all processes work together. Raises WorkerCrashed when one is gone."""
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as problem:
            if self.size == 1:
                raise
            self._parted = True
            raise WorkerCrashed(
                f"another process of this run is gone ({problem})", hint="Its folder says why, below workers/."
            ) from problem

    def context(self, context: Context) -> Context:
        """Where the first one alone speaks, and all stop and wait together."""
        return context if self.size == 1 else _Together(context.folder, context.whole, team=self)

    def _portable(self, problem: BaseException | None) -> BaseException | None:
        if problem is None or isinstance(problem, AceStepError | torch.OutOfMemoryError):
            return problem
        return WorkerCrashed(f"process {self.rank + 1} of {self.size} failed: {problem!r}")


ALONE = Team()


@dataclass(frozen=True)
class _Together(Context):
    team: Team = field(kw_only=True)

    def emit(self, event: Event) -> None:
        if self.team.first:
            super().emit(event)
        else:
            logger.info("{}", event)

    def wished(self, wish: str) -> bool:
        return any(self.team.meet(super().wished(wish)))
