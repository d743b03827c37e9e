"""Kill captioning, export and download at random operations on files, run them again, and compare what they write.

    env/bin/python -m dev.drill.commands --kills 10 --seed 1

Each command runs once undisturbed. Then a process is killed in the middle, every file that it left must be complete,
and the same command must finish with the same files.
"""

# ruff: noqa: T201 - a development script
from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.drill.checks import contents, require_whole, temporaries
from dev.drill.faults import KILLED, OPERATIONS, Fault, faulty_command
from dev.drill.run import PRELOADED
from tests.fake_hub import FakeHub, serve

_PATIENCE_S = 120.0
_LOGS = ("log.txt", "events.jsonl", "lock", "job.json", "timings.json")


@dataclass(frozen=True)
class Command:
    """``arguments(out)`` is a command that writes the folder ``out``; ``prepare(out)`` makes what it needs there."""

    name: str
    arguments: Callable[[Path], list[str]]
    prepare: Callable[[Path], None] = lambda out: None


def commands(folder: Path, checkpoint: Path, *, with_captions: bool = True) -> list[Command]:
    """Export of a tiny run, download from ``HF_ENDPOINT``, captions of two songs. Inputs are made in ``folder``."""
    from tests.exporting.models import make_run

    make_run(checkpoint, folder / "run", "lora", "alpha = r")
    export = ["export", str(folder / "run"), "--checkpoint", str(checkpoint), "--to", "diffusers"]
    return [
        Command("export", lambda out: [*export, "--out", str(out / "exported")]),
        Command("download", lambda out: ["download", "vae", "--root", str(out), "--source", "huggingface"]),
        *([Command("caption", _caption(folder), lambda out: _copy_songs(folder, out))] if with_captions else []),
    ]


def _copy_songs(folder: Path, out: Path) -> None:
    shutil.copytree(folder / "songs", out / "songs")


def _caption(folder: Path) -> Callable[[Path], list[str]]:
    from acestep.captioning.tiny import create_tiny_omni
    from tests.songs import write_song

    create_tiny_omni(folder / "models", "captioner")
    for number in range(2):
        write_song(folder / "songs" / f"song {number}.wav", 5.0, number)
    options = ["--captioner", "local", "--transcriber", "none", "--device", "cpu", "--no-measure"]
    return lambda out: ["caption", str(out / "songs"), "--checkpoints", str(folder / "models"), *options]


@contextmanager
def served() -> Iterator[None]:
    """A hub with one small model, named by ``HF_ENDPOINT``."""
    from tests.fake_hub import weights

    model = {"vae/config.json": b"{}", "vae/diffusion_pytorch_model.safetensors": weights(400_000)}
    with serve(FakeHub({"ACE-Step/Ace-Step1.5": model})) as hub:
        before = os.environ.get("HF_ENDPOINT")
        os.environ["HF_ENDPOINT"] = hub.url
        try:
            yield
        finally:
            os.environ.pop("HF_ENDPOINT")
            os.environ.update({} if before is None else {"HF_ENDPOINT": before})


def drill(folder: Path, command: Command, kills: int, chance: random.Random) -> list[str]:
    """Kill ``command`` that often. Returns a line for each kill. Raises AssertionError if a file is lost or differs."""
    whole = folder / f"{command.name}, undisturbed"
    counts = _run(command, whole, Fault(), folder)
    assert counts > 0, f"{command.name} wrote nothing"
    expected = _results(whole)
    lines = []
    for number in range(kills):
        out, at = folder / f"{command.name} {number}", chance.randint(1, counts)
        assert _run(command, out, Fault(OPERATIONS, at), folder) == KILLED
        left = sorted(path.relative_to(out).as_posix() for path in temporaries(out))
        _require_whole(out)
        _run(command, out, Fault(), folder)
        found = _results(out)
        differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        assert not differing, f"{command.name}, killed at {at} of {counts}: {differing} differ"
        assert not temporaries(out), f"{command.name}, killed at {at} of {counts}: {temporaries(out)} stayed"
        lines.append(
            f"{command.name}: killed at operation {at} of {counts}, left {left or 'nothing'}, then same result"
        )
        shutil.rmtree(out)
    return lines


def _run(command: Command, out: Path, fault: Fault, folder: Path) -> int:
    """Run it in a process. Returns the number of operations, or the negative signal that ended it."""
    if not out.exists():
        out.mkdir(parents=True)
        command.prepare(out)
    notes = Path(tempfile.mkdtemp(dir=folder, prefix="notes "))
    processes: Any = multiprocessing.get_context("forkserver")  # which loads torch once
    processes.set_forkserver_preload(PRELOADED)
    environment = {name: value for name, value in os.environ.items() if name == "HF_ENDPOINT"}
    process = processes.Process(
        target=faulty_command, args=(command.arguments(out), out, fault, notes, environment), daemon=True
    )
    process.start()
    process.join(_PATIENCE_S)
    assert process.exitcode is not None, f"{command.name} hangs"
    if process.exitcode < 0:
        return int(process.exitcode)
    assert process.exitcode == 0, (notes / "output.txt").read_text()
    return int(_counts(notes)[OPERATIONS])


def _counts(notes: Path) -> dict[str, int]:
    import json

    counts: dict[str, int] = json.loads((notes / "counts.json").read_text())
    return counts


def _results(out: Path) -> dict[str, bytes]:
    """The files that do not depend on the time or on the folder."""
    return {
        name: data.replace(str(out).encode(), b"OUT")
        for name, data in contents(out).items()
        if Path(name).name not in _LOGS and not name.endswith(".lock")
    }


def _require_whole(out: Path) -> None:
    for folder in (path for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")):
        require_whole(folder, 1)


def main() -> int:
    from acestep.models import create_tiny_checkpoint

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each command")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", help="the name of one command")
    asked, began_s, broken = parser.parse_args(), time.monotonic(), 0
    with tempfile.TemporaryDirectory() as name, served():
        folder = Path(name)
        for command in commands(folder, create_tiny_checkpoint(folder / "tiny")):
            if asked.only in (None, command.name):
                try:
                    print("\n".join(drill(folder, command, asked.kills, random.Random(asked.seed))), flush=True)
                except AssertionError as problem:
                    print(f"BROKEN: {problem}", flush=True)
                    broken += 1
    print(f"{broken} broken, {time.monotonic() - began_s:.0f} s")
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
