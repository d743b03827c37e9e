"""Every reader of files with many mutated files: time, memory and failures of each.

    nice -n 10 env/bin/python -m dev.mutate_files --examples 2000

Each reader runs in its own process, with a limit of memory and of time per example. A failure is an exception other
than AceStepError, or an example that takes more than --seconds or --megabytes; it is printed with its number, and
``--only READER --first NUMBER --examples 1`` repeats it. The test run does the same with a few examples.
"""

# ruff: noqa: T201 - it talks to the terminal
from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

LIMIT_BYTES = 12 * 2**30  # of the address space of a process
LIMIT_S = 60  # per example


def peak_bytes() -> int:
    """Peak resident memory since the last call of ``reset_peak``."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def reset_peak() -> int:
    """Restart the measurement of the peak; gives the memory in use."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_bytes()


def read_many(name: str, first: int, examples: int, models: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Metrics of one reader."""
    from tests.mutated.readers import READERS, Readable

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {LIMIT_S} s")

    if sys.platform == "win32":
        raise NotImplementedError("Windows has no signal for the end of a time")
    signal.signal(signal.SIGALRM, too_long)
    found: dict[str, Any] = {"examples": 0, "values": 0, "seconds": 0.0, "bytes": 0, "failures": []}
    with tempfile.TemporaryDirectory() as place:
        readable = Readable(READERS[name], Path(place) / "files", models)
        for number in range(first, first + examples):
            before, began, problem = reset_peak(), time.monotonic(), ""
            signal.alarm(LIMIT_S)
            try:
                found["values"] += readable.check(Random(f"{name} {number}")) == "value"
            except Exception as error:  # noqa: BLE001 - this is what is looked for
                where = traceback.extract_tb(error.__traceback__)
                at = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in where if "acestep" in frame.filename]
                problem = f"{type(error).__name__}: {str(error)[:160]!r} at {' '.join(at[-3:])}"
            finally:
                signal.alarm(0)
            seconds, used = time.monotonic() - began, peak_bytes() - before
            if not problem and number > first and (seconds > arguments.seconds or used > arguments.megabytes * 2**20):
                problem = f"{seconds:.1f} s, {used / 2**20:,.0f} MB"
            if problem:
                found["failures"].append([number, problem])
            found["examples"] += 1
            if number > first:  # the first one imports torch
                found["seconds"], found["bytes"] = max(found["seconds"], seconds), max(found["bytes"], used)
    return found


def report(name: str, found: dict[str, Any]) -> None:
    """Print the row of a reader and its failures."""
    megabytes = found["bytes"] / 2**20
    print(
        f"| {name} | {found['examples']} | {found['values']} | {found['seconds']:.2f} | {megabytes:,.0f} "
        f"| {len(found['failures'])} |",
        flush=True,
    )
    for number, problem in found["failures"][:10]:
        print(f"    FAILED {name} {number}: {problem}", file=sys.stderr, flush=True)


def run_reader(name: str, models: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Metrics of one reader, from a process of its own."""
    command = [sys.executable, "-m", "dev.mutate_files", "--worker", str(models), "--only", name]
    for option in ("first", "examples", "seconds", "megabytes"):
        command += [f"--{option}", str(getattr(arguments, option))]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        lost = [[-1, f"the process exited with {done.returncode}: {done.stderr[-300:]}"]]
        return {"examples": 0, "values": 0, "seconds": 0.0, "bytes": 0, "failures": lost}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Read mutated files.")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0, help="number of the first example")
    parser.add_argument("--only", default="", help="readers whose names contain this text")
    parser.add_argument("--seconds", type=float, default=5.0, help="limit of an example")
    parser.add_argument("--megabytes", type=float, default=500.0, help="limit of an example")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        if sys.platform == "win32":
            raise NotImplementedError("Windows has no limit of the memory of a process")
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
        warnings.simplefilter("ignore")
        models = Path(arguments.worker)
        print(json.dumps(read_many(arguments.only, arguments.first, arguments.examples, models, arguments)))
        return 0
    from acestep.models import create_tiny_checkpoint
    from tests.mutated.readers import READERS

    failed = 0
    print("| reader | examples | values | time max (s) | memory max (MB) | failures |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        create_tiny_checkpoint(Path(place), "turbo")
        for name in READERS:
            if arguments.only in name:
                found = run_reader(name, Path(place), arguments)
                report(name, found)
                failed += len(found["failures"])
    return min(failed, 1)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
