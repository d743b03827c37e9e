"""What can go wrong in a run, made to happen from outside: nothing in the program knows of it.

``faulty_run`` is the program's own command ``run`` in a process of its own; what it calls of the system and of torch
is replaced before. Each fault has its own clock: operations on files, bytes written, models loaded, calls of their
parts, steps of the optimizer, or batches. Without a fault the clocks are counted to the end and written down, so that
moments can be chosen from them.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OPERATIONS, BYTES, LOADS, CALLS, STEPS, BATCHES = ("operations", "bytes", "loads", "calls", "steps", "batches")
REFUSALS, JUMPS = "refusals", "jumps"  # counted with the operations on files: a read-only disk, a change of the clock
CLOCKS = (OPERATIONS, BYTES, LOADS, CALLS, STEPS, BATCHES, REFUSALS, JUMPS)
"""The moments within a process that a fault can wait for."""

KILLED = -9  # exit code of a process after SIGKILL
_JUMP_S = 3 * 86_400.0


def kill_this_process() -> None:
    """End this process as ``kill -9`` does; its exit code is ``KILLED``."""
    if sys.platform == "win32":
        raise NotImplementedError("Windows has no SIGKILL")
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Fault:
    """Dies at that many operations on files, or meets a full or read-only disk, too little memory, NaN or another time
    from then on."""

    clock: str = ""  # "" is no fault
    at: int = 0


@dataclass
class _Clocks:
    """Counts, and lets the fault happen."""

    root: str
    fault: Fault
    fired: Path
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CLOCKS, 0))

    def tick(self, clock: str, count: int = 1) -> bool:
        """Whether it is time for the fault of this clock, which then lasts."""
        self.counts[clock] += count
        due = self.fault.clock == clock and self.counts[clock] >= self.fault.at
        if due and not os.path.exists(self.fired):
            os.close(os.open(self.fired, os.O_CREAT))
        return due

    def operation(self) -> None:
        """Before an operation on a file: the disk may be read-only, or the time another one."""
        self.tick(JUMPS)
        if self.tick(REFUSALS):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def inside(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.root)


class _Written:
    """A file that is written to; the disk may be full, or the process end, in the middle of it."""

    def __init__(self, file: Any, clocks: _Clocks) -> None:
        self._file, self._clocks = file, clocks

    def write(self, data: Any) -> int:
        self._clocks.operation()
        if self._clocks.tick(OPERATIONS):
            self._half(data)
            kill_this_process()
        if self._clocks.tick(BYTES, len(data)):
            self._half(data)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def _half(self, data: Any) -> None:
        self._file.write(data[: len(data) // 2])
        self._file.flush()

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def faulty_run(folder: Path, fault: Fault, notes: Path) -> None:
    """``python -m acestep run FOLDER`` with a fault; see ``faulty_command``."""
    job = json.loads((folder / "job.json").read_text())
    faulty_command(["run", str(folder)], Path(job["config"]["out"]), fault, notes)


def faulty_command(
    arguments: list[str], root: Path, fault: Fault, notes: Path, environment: dict[str, str] | None = None
) -> None:
    """A command of the program, in this process, whose operations on files below ``root`` count.

    ``notes`` is the folder of its output, of a mark that the fault has come, and of the counts. The environment is that
    of the caller: the process may come from a server that was started earlier.
    """
    os.environ.update(environment or {})
    output = os.open(notes / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    clocks = _Clocks(str(root), fault, notes / "fired")
    _replace_files(clocks)
    _replace_time(clocks)
    _replace_model(clocks)
    from acestep.cli.app import main

    code = main(arguments)
    clocks.root = "\0"
    (notes / "counts.json").write_text(json.dumps(clocks.counts))
    sys.exit(code)


def _replace_time(clocks: _Clocks) -> None:
    """The time of day is three days later, then earlier, at every other operation from the fault on."""
    truly = time.time

    def shifted() -> float:
        late = clocks.fault.clock == JUMPS and clocks.counts[JUMPS] - clocks.fault.at
        return truly() if late is False or late < 0 else truly() + (_JUMP_S if late % 2 == 0 else -_JUMP_S)

    time.time = shifted


def _replace_files(clocks: _Clocks) -> None:
    plainly = io.open

    def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        found = plainly(file, mode, *arguments, **named)
        writes = clocks.inside(file) and set(mode) & set("wax+")
        return _Written(found, clocks) if writes else found

    builtins.open = io.open = opened
    shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined] # copies go through write() as well
    for name in ("replace", "fsync", "mkdir", "unlink", "rmdir"):
        setattr(os, name, _deadly(getattr(os, name), clocks))
    _replace_safetensors(opened)


def _deadly(plainly: Any, clocks: _Clocks) -> Any:
    """An operation before which the process may end."""

    def done(path: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(path, int) or clocks.inside(path):
            clocks.operation()
            if clocks.tick(OPERATIONS):
                kill_this_process()
        return plainly(path, *arguments, **named)

    return done


def _replace_safetensors(opened: Any) -> None:
    """Its own writer does not go through Python; what it says of a full disk was seen on one."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    from acestep.training.state import tensor_tree as state

    def save_file(tensors: Any, path: Path) -> None:
        try:
            with opened(path, "wb") as file:
                file.write(save(tensors))
        except OSError as problem:
            raise SafetensorError(f"I/O error: {problem.strerror} (os error {problem.errno})") from None

    state.save_file = save_file  # type: ignore[attr-defined, assignment]


def _replace_model(clocks: _Clocks) -> None:
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from acestep.models import load
    from acestep.preprocessing import stages
    from acestep.training import session

    def scarce(clock: str, then: Any = None) -> Any:
        def called(*arguments: Any, **named: Any) -> Any:
            if clocks.tick(clock):
                raise torch.OutOfMemoryError("out of memory (a drill)")
            return then(*arguments, **named) if then else None

        return called

    register_module_forward_pre_hook(scarce(CALLS))
    register_optimizer_step_pre_hook(scarce(STEPS))
    session.load_dit = scarce(LOADS, session.load_dit)  # type: ignore[attr-defined]
    for name in ("load_vae", "load_text_encoder", "load_condition_encoder"):
        setattr(load, name, scarce(LOADS, getattr(load, name)))
    collate, encode_condition = session.collate, stages.encode_condition  # type: ignore[attr-defined]

    def batch(*arguments: Any) -> Any:
        made = collate(*arguments)
        return made._replace(latents=made.latents * torch.nan) if clocks.tick(BATCHES) else made

    def condition(*arguments: Any) -> Any:
        made = encode_condition(*arguments)
        return made * torch.nan if clocks.tick(BATCHES) else made

    session.collate, stages.encode_condition = batch, condition  # type: ignore[attr-defined, assignment]
