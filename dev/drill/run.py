"""Fault drill: jobs on the tiny checkpoint that meet trouble at random moments and are gone on with until they end.

    env/bin/python -m dev.drill.run --kills 50 --seed 1

Training of a LoRA and of a LoKr, preprocessing in one pass and in two, in turn. Each is done once undisturbed. Then it
is begun in a new folder, meets a few faults, and after each the whole folder is looked at; what it leaves in the end
must equal what the undisturbed one left. The seed decides which fault comes when.
"""

# ruff: noqa: T201 - it talks to the terminal
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from acestep.core.event_log import EventLog
from acestep.core.events import FINAL_EVENTS, Cancelled, Event, Failed
from acestep.core.job_runner import JobRunner
from acestep.core.jobs import write_job
from dev.drill.checks import require_whole, steps_in, temporaries
from dev.drill.faults import BATCHES, BYTES, CALLS, JUMPS, KILLED, LOADS, OPERATIONS, REFUSALS, STEPS, Fault, faulty_run
from dev.drill.jobs import SAVE_EVERY, Work, works

KINDS = (
    *("kill", "kill while writing", "SIGTERM", "stop", "out of memory", "NaN batch", "disk full", "read-only disk"),
    *("SIGSTOP", "clock change"),
)
_SURVIVED = ("SIGSTOP", "clock change")  # the job finishes
_CANNOT_TELL = ("disk full", "read-only disk")  # the last event cannot be written
_FROZEN_S = 0.5
_CLOCKS = {
    "kill while writing": (OPERATIONS,),
    "out of memory": (CALLS, CALLS, STEPS, LOADS),
    "NaN batch": (BATCHES,),
    "disk full": (BYTES,),
    "read-only disk": (REFUSALS,),
    "clock change": (JUMPS,),
}
PRELOADED = [
    *("acestep.cli.app", "acestep.training.trainer", "acestep.preprocessing.builder", "dev.drill.faults"),
    *("acestep.adapters.lora", "acestep.adapters.lokr", "torch.utils.tensorboard"),
]
_UNIT_S = {"train": 0.05, "preprocess": 0.8}  # about what a step and a song take: a signal comes at any moment of one
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Undisturbed:
    """A job without a fault: what it left, and how far its clocks went."""

    results: dict[str, bytes]
    events: int
    counts: dict[str, int]


@dataclass(slots=True)
class Struck:
    """What became of one fault.

    Attributes:
        resumed_from: the step, or the number of songs, that the job resumes from; lost: steps that are repeated.
        verdict: on the folder in the end.
    """

    work: str
    fault: str
    resumed_from: int
    lost: int
    verdict: str = "?"


class Drill:
    """Runs in ``folder``. ``broken`` tells the promises that were; ``compared`` the jobs that ended as they should."""

    def __init__(self, folder: Path, seed: int) -> None:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        self._folder, self._chance, self._lives = folder, random.Random(seed), 0
        self._processes: Any = multiprocessing.get_context("forkserver")  # which loads torch once
        self._processes.set_forkserver_preload(PRELOADED)
        self._undisturbed: dict[str, Undisturbed] = {}
        self.struck: list[Struck] = []
        self.compared: list[str] = []
        self.broken: list[str] = []

    def run(self, jobs: list[Work], kills: int, per_life: int) -> None:
        """Let ``kills`` faults come, up to ``per_life`` in one folder, and every job come to its end."""
        faults = self._faults(kills)
        while faults:
            work, self._lives = jobs[self._lives % len(jobs)], self._lives + 1
            if work.name not in self._undisturbed:
                self._undisturbed[work.name] = self._whole(work)
            out, before = self._folder / f"life {self._lives}", len(self.struck)
            try:
                self._live(work, out, faults, self._chance.randint(1, per_life))
                verdict = "same end"
            except AssertionError as broken:
                verdict = "BROKEN"
                self.broken.append(str(broken))
                print(broken, file=sys.stderr, flush=True)
            for struck in self.struck[before:]:
                struck.verdict = verdict
            shutil.rmtree(out)

    def _live(self, work: Work, out: Path, faults: list[str], several: int) -> None:
        """One folder: at most so many of the ``faults``, which are taken away, and the end."""
        write_job(work.folder(out), work.job, work.make(out))
        for before in range(several):
            if faults and not self._strike(work, out, fault := faults.pop(0), before):
                faults.insert(0, fault)  # the job ended without it
                break
        self._finish(work, out)

    def _faults(self, kills: int) -> list[str]:
        """Every kind about equally often, in random order."""
        kinds: list[str] = []
        while len(kinds) < kills:
            kinds += self._chance.sample(KINDS, len(KINDS))
        return kinds[:kills]

    def _whole(self, work: Work) -> Undisturbed:
        out = self._folder / f"{work.name}, undisturbed"
        write_job(work.folder(out), work.job, work.make(out))
        process, notes = self._started(work, out, Fault())
        process.join(_PATIENCE_S)
        assert process.exitcode == 0, (notes / "output.txt").read_text()
        events, _ = EventLog(work.folder(out) / "events.jsonl").read()
        return Undisturbed(work.results(out), len(events), json.loads((notes / "counts.json").read_text()))

    def _strike(self, work: Work, out: Path, kind: str, before: int) -> bool:
        """Go on with the job until the fault comes; False if the job has ended without noticing it."""
        whole, folder = self._undisturbed[work.name], work.folder(out)
        possible = [clock for clock in _CLOCKS.get(kind, ()) if whole.counts[clock]]
        clock = self._chance.choice(possible) if possible else ""
        share, delay_s = self._chance.random(), self._chance.uniform(0, _UNIT_S[work.job])
        saved, log = work.saved(out, whole.results), EventLog(folder / "events.jsonl")
        _, offset = log.read()
        fault = Fault(clock, 1 + int(share * whole.counts[clock])) if clock else Fault()
        process, notes = self._started(work, out, fault)
        if not clock:
            _await(process, log, offset, 1 + int(share * whole.events))
            time.sleep(delay_s)
            _signal(process, folder, kind)
        process.join(_PATIENCE_S)
        events, _ = log.read(offset)
        last = events[-1] if events and isinstance(events[-1], FINAL_EVENTS) else None
        if process.exitcode == 0 and kind not in _SURVIVED:
            return False
        output = (notes / "output.txt").read_text()
        _require_end(kind, process.exitcode, last, f"{work.name}, {kind}: {process.exitcode}, {last}\n{output}")
        at_any_moment = kind.startswith("kill") or clock in (BYTES, REFUSALS, STEPS)  # also while the weights move
        self._look(work, out, kind, saved, offset, before, most=SAVE_EVERY if at_any_moment else 0)
        return True

    def _look(self, work: Work, out: Path, kind: str, before: int, offset: int, faults: int, *, most: int) -> None:
        """After a fault: everything is whole, and no more steps are lost than ``most``, those since the last save."""
        fault = f"{work.name}, {kind}"
        require_whole(out, faults + 1)
        may_leave = kind.startswith("kill") or kind == "read-only disk"
        assert may_leave or not temporaries(out), f"{fault}: left {temporaries(out)}"
        saved = work.saved(out, self._undisturbed[work.name].results)
        assert saved >= before, f"{fault}: {before} were saved, {saved} are left"
        lost = max([saved, *steps_in(work.folder(out), offset)]) - saved if work.job == "train" else 0
        assert lost <= most, f"{fault}: {lost} steps lost"
        self.struck.append(Struck(work.name, kind, saved, lost))
        print(f"{len(self.struck)}. {fault}: resumes from {saved}, {lost} lost", file=sys.stderr, flush=True)

    def _finish(self, work: Work, out: Path) -> None:
        """Finish without a fault and compare. A job that has already finished exports its result again."""
        wanted = self._undisturbed[work.name].results
        saved, (_, offset) = work.saved(out, wanted), EventLog(work.folder(out) / "events.jsonl").read()
        process, notes = self._started(work, out, Fault())
        process.join(_PATIENCE_S)
        assert process.exitcode == 0, f"{work.name} does not resume:\n{(notes / 'output.txt').read_text()}"
        assert steps_in(work.folder(out), offset)[:1] in ([], [saved + 1])
        results = work.results(out)
        differing = sorted(name for name in results.keys() | wanted.keys() if results.get(name) != wanted.get(name))
        assert not differing, f"{work.name}: {differing} differ from the undisturbed job"
        assert not temporaries(out), f"{work.name}: {temporaries(out)} stayed"
        self.compared.append(work.name)

    def _started(self, work: Work, out: Path, fault: Fault) -> tuple[BaseProcess, Path]:
        notes = Path(tempfile.mkdtemp(dir=self._folder, prefix="notes "))
        process = self._processes.Process(target=faulty_run, args=(work.folder(out), fault, notes), daemon=True)
        process.start()
        return process, notes


def _await(process: BaseProcess, log: EventLog, offset: int, events: int) -> None:
    """Wait until the job has reported so many events, or has ended."""
    deadline = time.monotonic() + _PATIENCE_S
    while process.is_alive() and len(log.read(offset)[0]) < events and time.monotonic() < deadline:
        time.sleep(0.002)


def _signal(process: BaseProcess, folder: Path, kind: str) -> None:
    if kind == "stop":  # as the page does it
        runner = JobRunner()
        runner.folder = folder
        runner.cancel()
    elif kind == "SIGSTOP" and process.is_alive() and process.pid is not None:
        psutil.Process(process.pid).suspend()
        time.sleep(_FROZEN_S)
        psutil.Process(process.pid).resume()
    elif process.is_alive():
        (process.kill if kind == "kill" else process.terminate)()


def _require_end(kind: str, code: int | None, last: Event | None, fault: str) -> None:
    """Check that the job ended as expected, and reported it where it could."""
    if kind.startswith("kill"):
        assert code == KILLED, fault
    elif kind in _SURVIVED:
        assert code == 0, fault
    elif kind in ("SIGTERM", "stop"):
        assert code == 130, fault
        assert isinstance(last, Cancelled), fault
    else:
        assert code == 1, fault
        assert kind in _CANNOT_TELL or (isinstance(last, Failed) and last.hint), fault


def table(struck: list[Struck]) -> Iterator[str]:
    """A row for each job and fault."""
    yield "| job | fault | times | went on from | lost | verdict |"
    yield "|---|---|---|---|---|---|"
    for work, fault in dict.fromkeys((one.work, one.fault) for one in sorted(struck, key=lambda s: (s.work, s.fault))):
        found = [one for one in struck if (one.work, one.fault) == (work, fault)]
        places = ", ".join(str(one.resumed_from) for one in found)
        lost, verdicts = ", ".join(str(one.lost) for one in found), ", ".join(dict.fromkeys(o.verdict for o in found))
        yield f"| {work} | {fault} | {len(found)} | {places} | {lost} | {verdicts} |"


def main() -> int:
    from acestep.models import create_tiny_checkpoint

    parser = argparse.ArgumentParser(description="Let jobs meet faults at random moments.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-life", type=int, default=4, help="most faults that one job meets")
    asked, began = parser.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        drill = Drill(place, asked.seed)
        drill.run(works(place, create_tiny_checkpoint(place / "tiny")), asked.kills, asked.per_life)
    print("\n".join(table(drill.struck)))
    told = f"{len(drill.struck)} faults, {len(drill.compared)} jobs ended as the undisturbed ones did"
    print(f"{told}, {len(drill.broken)} promises broken, {time.monotonic() - began:.0f} s")
    return min(len(drill.broken), 1)


if __name__ == "__main__":
    sys.exit(main())
