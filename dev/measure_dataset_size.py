"""Train on 200 and on 10,000 songs: start, steps per second and resident memory of both, and a bit-exact resume.

Not part of the test run:  nice python -m dev.measure_dataset_size [--songs 10000] [--frames 1000] [--data FOLDER]
The larger dataset takes about 450 MB for 1,000 songs of 1,000 frames; ``--data`` keeps it for another measurement. Each
run is a process of its own, and the two sizes alternate.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from acestep.core.events import Event
from acestep.core.jobs import Context
from acestep.core.paths import PROJECT
from acestep.models.checkpoint import Checkpoint, encoder_fingerprint, find_checkpoint
from acestep.models.condition import context_latents
from acestep.models.load import load_silence_latent
from acestep.models.tiny import create_tiny_checkpoint
from acestep.tensors.index import NAME as INDEX
from acestep.tensors.index import TensorIndex
from acestep.tensors.manifest import SampleDetails, read_manifest, sample_details, write_manifest
from acestep.tensors.record import TensorRecord, encode_record
from acestep.tensors.tensor_file import describe_file
from acestep.training.configs import TrainJob
from acestep.training.loop import StepReport, train
from acestep.training.parsing import set_value
from acestep.training.prepare import prepare
from acestep.training.session import Session
from acestep.training.start_check import check_start
from acestep.training.state.random_state import seeded_generators
from acestep.training.trainer import train_job

_SMALL = 200
_PARTS = ("start", "speed", "resume", "check")
_TOKENS = 300
_STEPS, _SPEED_ROUNDS = 4, 20  # per round
_SETTINGS = {"gradient_accumulation_steps": 2, "max_latent_length": 500, "save_every_n_epochs": 0, "lora.r": 8}
_LYRICS = "[verse]\n" + "a line of a song that somebody sings\n" * 40


class _Silent(Context):
    def emit(self, event: Event) -> None:
        pass


class _Stopwatch:
    """The seconds of each step; ends a round of ``steps``."""

    def __init__(self, steps: int) -> None:
        self.times: list[float] = []
        self._steps, self._last = steps, time.perf_counter()

    def after_step(self, report: StepReport) -> bool:
        now = time.perf_counter()
        self.times.append(now - self._last)
        self._last = now
        return len(self.times) >= self._steps


def write_songs(folder: Path, checkpoint: Checkpoint, count: int, frames: int) -> Path:
    """A folder as preprocessing leaves it: bf16, silence as context, a manifest and an index."""
    if (folder / INDEX).is_file():
        return folder
    folder.mkdir(parents=True)
    generator, width = torch.Generator().manual_seed(0), checkpoint.config["hidden_size"]
    silence = context_latents(load_silence_latent(checkpoint), frames).bfloat16()
    known = {"encoder_fingerprint": encoder_fingerprint(checkpoint), "model_checkpoint": checkpoint.name}
    details: list[SampleDetails] = []
    index = TensorIndex(folder)
    for number in range(count):
        name = f"song {number:05}.pt"
        length = frames - number % 100  # songs differ in length
        metadata = {**known, "filename": f"{name}.wav", "caption": f"song {number}", "lyrics": _LYRICS, "bpm": 120}
        latents = torch.randn(length, 64, generator=generator).bfloat16()
        condition = torch.randn(_TOKENS, width, generator=generator).bfloat16()
        record = TensorRecord(latents, silence[:length], condition, metadata)
        data = encode_record(record)
        (folder / name).write_bytes(data)
        details.append(sample_details(name, record, data))
        index.put(name, describe_file(data, record, (folder / name).stat().st_mtime_ns))
    write_manifest(folder, details, metadata={"name": "measured"}, preprocessing={})
    time.sleep(3)  # files that have just been written are not recorded
    index.write()
    return folder


def make_job(tensors: Path, checkpoint: Path, out: Path, **settings: Any) -> TrainJob:
    job = TrainJob(tensor_dir=tensors, checkpoint=str(checkpoint), out=out, device="cpu")
    for key, value in {**_SETTINGS, **settings}.items():
        set_value(job, key, value)
    return job


def train_round(session: Session, steps: int) -> list[float]:
    """The seconds of each of the next steps."""
    prepared, progress, stopwatch = session.prepared, session.progress, _Stopwatch(steps)
    train(
        fabric=session.fabric,
        model=session.model,
        optimizer=session.optimizer,
        lr_at=lambda step: prepared.lr,
        steps=prepared.step_plan.steps(progress.epoch, progress.samples_done),
        make_batch=session.make_batch,
        progress=progress,
        random=session.random,
        max_grad_norm=1.0,
        max_not_finite=0,
        callback=stopwatch,
        stop_if_cancelled=lambda: None,
    )
    return stopwatch.times


def measure_run(tensors: Path, checkpoint: Path) -> dict[str, float]:
    """Seconds to read the manifest, to check and to prepare a run; resident MiB after some steps and at the peak."""
    with tempfile.TemporaryDirectory() as folder:
        job, context = make_job(tensors, checkpoint, Path(folder) / "run"), _Silent(Path(folder))
        moments = [time.perf_counter()]
        read_manifest(tensors)
        moments.append(time.perf_counter())
        check_start(job)
        moments.append(time.perf_counter())
        prepared = prepare(job, context)
        moments.append(time.perf_counter())
        with seeded_generators(0, prepared.device), closing(Session(prepared, context.emit)) as session:
            train_round(session, _STEPS)
            resident, peak = _memory_mib("VmRSS"), _memory_mib("VmHWM")
    look, check, start = (after - before for before, after in zip(moments, moments[1:], strict=False))
    return {"manifest_s": look, "check_s": check, "start_s": start, "resident_mib": resident, "peak_mib": peak}


def measure_speed(sets: dict[int, Path], checkpoint: Path, rounds: int) -> dict[str, float]:
    """Median steps per second of each dataset, in one process that alternates between them every few steps."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        stack.enter_context(seeded_generators(0, torch.device("cpu")))
        times: dict[int, list[float]] = {count: [] for count in sets}
        sessions = {}
        for count, tensors in sets.items():
            job = make_job(tensors, checkpoint, Path(folder) / f"{count}")
            sessions[count] = stack.enter_context(closing(Session(prepare(job, _Silent(Path(folder))), lambda _: None)))
        for number in range(rounds + 1):  # the first one warms up
            for count, session in sessions.items():
                measured = train_round(session, _STEPS)
                times[count] += measured if number else []
    return {f"{count} songs": round(1 / statistics.median(found), 3) for count, found in times.items()}


def _memory_mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def in_process(tensors: Path, checkpoint: Path) -> dict[str, float]:
    """``measure_run`` in a process of its own."""
    command = [sys.executable, "-m", "dev.measure_dataset_size", "--run", str(tensors), str(checkpoint)]
    result = subprocess.run(command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def compare(sets: dict[int, Path], checkpoint: Path, rounds: int) -> dict[str, dict[str, float]]:
    """The median of ``measure_run`` for each dataset, in alternation."""
    found: dict[int, list[dict[str, float]]] = {count: [] for count in sets}
    for _ in range(rounds):
        for count, tensors in sets.items():
            found[count].append(in_process(tensors, checkpoint))
            logger.info("{} songs: {}", count, found[count][-1])
    return {
        str(count): {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}
        for count, runs in found.items()
    }


def seconds_of_first_check(tensors: Path, checkpoint: Path) -> float:
    """The check of a dataset without an index, in which every file is read."""
    index = tensors / INDEX
    before = index.read_bytes()
    index.unlink()
    try:
        return in_process(tensors, checkpoint)["check_s"]
    finally:
        index.write_bytes(before)


def resumes_exactly(tensors: Path, checkpoint: Path, root: Path) -> bool:
    """Whether a run that resumes after 4 of 8 steps ends with the same checkpoint: weights, optimizer, random state."""
    whole = make_job(tensors, checkpoint, root / "whole", max_steps=8, save_every_n_steps=4, measure_every_n_epochs=0)
    resumed = whole.model_copy(
        update={"out": root / "resumed", "resume": str(root / "whole" / "checkpoints" / "epoch_1_step_4")}
    )
    ends = []
    for job in (whole, resumed):
        job.out.mkdir(parents=True)
        train_job(job, _Silent(job.out))
        last = job.out / "checkpoints" / "epoch_1_step_8"
        ends.append({str(path.relative_to(last)): path.read_bytes() for path in last.rglob("*") if path.is_file()})
    return bool(ends[0]) and ends[0] == ends[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=1000, help="latent frames of a song, 25 per second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="folder of the datasets, which are made if they are missing")
    parser.add_argument(
        "--parts", nargs="*", choices=_PARTS, default=_PARTS, help="what to measure; nothing: make data"
    )
    parser.add_argument("--run", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(measure_run(*options.run)))  # noqa: T201 - read by the parent process
        return
    with tempfile.TemporaryDirectory() as folder:
        root, data = Path(folder), options.data or Path(folder)
        checkpoint = create_tiny_checkpoint(data / "models")
        opened = find_checkpoint(checkpoint)
        sets = {n: write_songs(data / f"{n}", opened, n, options.frames) for n in (_SMALL, options.songs)}
        results: dict[str, Any] = {}
        if "start" in options.parts:
            results |= compare(sets, checkpoint, options.rounds)
        if "speed" in options.parts:
            results["steps_per_s"] = measure_speed(sets, checkpoint, _SPEED_ROUNDS)
        if "resume" in options.parts:
            results["resume_is_bit_exact"] = resumes_exactly(sets[options.songs], checkpoint, root)
        if "check" in options.parts:
            results["check_without_index_s"] = round(seconds_of_first_check(sets[options.songs], checkpoint), 1)
    print(json.dumps(results, indent=2))  # noqa: T201 - a script for people


if __name__ == "__main__":
    main()
