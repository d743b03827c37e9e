"""Runs the processes of a launcher as threads of this one, which exchange values in memory instead of through gloo."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from acestep.core.jobs import Context
from acestep.core.launcher import Launch
from acestep.models.process_group import ProcessGroup

TIMEOUT_S = 60


class _Threads(ProcessGroup):
    """One of several threads; ``values`` and ``barrier`` are common to all."""

    def __init__(self, launch: Launch, values: list[Any], barrier: threading.Barrier) -> None:
        super().__init__()
        self.launch, self.rank, self.world_size = launch, launch.rank, launch.world_size
        self._values, self._barrier = values, barrier

    def all_gather(self, value: Any, problem: BaseException | None = None) -> list[Any]:
        self._values[self.rank] = (value, problem)
        self._barrier.wait(TIMEOUT_S)
        found = list(self._values)
        self._barrier.wait(TIMEOUT_S)
        problems = [each for _, each in found if each is not None]
        self._disconnected = bool(problems)
        if problems and problem is None:
            raise problems[0]
        return [each for each, _ in found]


def run_launched_job(
    job: Callable[[Any, Context], dict[str, Any]],
    config: Any,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    world_size: int = 2,
) -> list[dict[str, Any] | BaseException]:
    """The result or the error of ``job`` in each of ``world_size`` processes, which share it as if torchrun had started
    them."""
    values, barrier = [None] * world_size, threading.Barrier(world_size)
    monkeypatch.setattr(ProcessGroup, "connect", lambda launch: _Threads(launch, values, barrier))
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    contexts = []
    for rank in range(world_size):
        launch = Launch("torchrun", rank, world_size, rank, world_size)
        own = launch.own_folder(folder)
        own.mkdir(parents=True, exist_ok=True)
        contexts.append(Context(own, None if launch.is_main else folder, launch))
    with ThreadPoolExecutor(world_size) as threads:
        futures = [threads.submit(job, config, context) for context in contexts]
        return [future.exception() or future.result() for future in futures]
