"""The complete workflow on generated songs and a tiny model, with a check that the adapter learned."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torch import Tensor

from acestep.audio.files import write_audio
from acestep.core.config import Config, parse
from acestep.core.console_follow import WriteLine, follow_events, stop_on_signals
from acestep.core.errors import AceStepError, JobCancelled, TrainingError
from acestep.core.events import Failed, Finished
from acestep.core.jobs import run_job, write_job
from acestep.dataset.scan import scan_folder
from acestep.dataset.store import write_dataset
from acestep.demo.songs import SECONDS, TAG, TUNES, write_songs
from acestep.exporting.package import export_adapter
from acestep.handler import AceStepHandler
from acestep.models.configs import GenerationConfig
from acestep.models.tiny import create_tiny_checkpoint
from acestep.preprocessing.configs import PreprocessJob
from acestep.training.configs import LoRAConfig, TrainingConfig, TrainJob


def run_demo(workdir: Path, *, steps: int, write_line: WriteLine) -> dict[str, Any]:
    """Scan, preprocess, train, export and generate in ``workdir``; returns the metrics and paths.

    Raises:
        AceStepError: a step failed, or the adapter did not learn.
    """
    start = time.monotonic()
    checkpoint = create_tiny_checkpoint(workdir / "checkpoints")
    write_line(f"Tiny model: {checkpoint}")
    dataset = _songs(workdir)
    write_line(f"{len(TUNES)} labeled songs of {SECONDS:.0f} s: {dataset}")
    tensors, run = workdir / "tensors", _free_run_folder(workdir / "lora_output")
    preprocessing = PreprocessJob(source=dataset, checkpoint=str(checkpoint), out=tensors)
    _job("preprocess", preprocessing, tensors / "_job", write_line)
    trained = _job("train", _training(tensors, checkpoint, run, steps), run, write_line)
    write_line("Exporting and generating")
    exported = export_adapter(run, to="acestep", out=workdir / "export" / run.name)
    audio = _generate(checkpoint, run / "final" / "adapter", Path(exported["adapter"]), workdir / "audio")
    metrics = {key: trained[key] for key in ("fit_loss_before", "fit_loss", "zero_loss", "steps")}
    _require_learned(metrics, audio)
    return {**metrics, **audio, "export": exported["adapter"], "run": str(run), "seconds": time.monotonic() - start}


def _songs(workdir: Path) -> Path:
    folder = workdir / "songs"
    write_songs(folder)
    found = scan_folder(folder, name="demo", custom_tag=TAG)
    write_dataset(workdir / "demo.json", found.dataset)
    return workdir / "demo.json"


def _training(tensors: Path, checkpoint: Path, run: Path, steps: int) -> TrainJob:
    """A short run: every song in each step, a high learning rate, no dropout."""
    training = TrainingConfig(
        max_epochs=steps,
        batch_size=3,
        gradient_accumulation_steps=2,
        learning_rate=3e-3,
        warmup_steps=10,
        train_mlp=True,
        cfg_dropout_prob=0.0,
        save_every_n_epochs=max(1, steps // 4),
        log_every_n_steps=max(1, steps // 12),
    )
    lora = LoRAConfig(r=16, alpha=16, dropout=0.0)
    values = {"tensor_dir": tensors, "checkpoint": str(checkpoint), "out": run, "training": training, "lora": lora}
    return parse(TrainJob, values)


def _job(name: str, config: Config, folder: Path, write_line: WriteLine) -> dict[str, Any]:
    write_job(folder, name, config)
    with stop_on_signals(folder, write_line), follow_events(folder, write_line):
        last = run_job(folder)
    if isinstance(last, Finished):
        return last.result
    if isinstance(last, Failed):
        raise AceStepError(f"{name}: {last.message}", hint=last.hint)
    raise JobCancelled(str(last))


def _generate(checkpoint: Path, trained: Path, exported: Path, out: Path) -> dict[str, Any]:
    """Generate the same request without an adapter, with the trained one and with the exported one, and compare."""
    handler = AceStepHandler(checkpoint)
    request = GenerationConfig(prompt=f"{TAG}, {TUNES[0].caption}", bpm=TUNES[0].bpm, duration_s=6, seed=7)
    before = handler.generate(request)
    handler.load_adapter(trained)
    after = handler.generate(request)
    handler.load_adapter(exported)
    again = handler.generate(request)
    handler.unload()
    for name, audio in (("before", before), ("after", after)):
        write_audio(out / f"{name}.wav", audio)
    return {
        "audio_before": str(out / "before.wav"),
        "audio_after": str(out / "after.wav"),
        "audio_difference": _difference(before, after),
        "export_difference": _difference(after, again),
    }


def _difference(one: Tensor, other: Tensor) -> float:
    """Root mean square of the difference, relative to that of the first audio."""
    return float((one - other).square().mean().sqrt() / one.square().mean().sqrt())


def _require_learned(metrics: dict[str, Any], audio: dict[str, Any]) -> None:
    if not metrics["fit_loss"] < 0.9 * min(metrics["fit_loss_before"], metrics["zero_loss"]):
        raise TrainingError(f"The adapter did not learn: {metrics}", hint="Train for more steps.")
    if not audio["audio_difference"] > 0.01 or audio["export_difference"] > 1e-6:
        raise TrainingError(f"The adapter does not change the audio as expected: {audio}", hint="Train for more steps.")


def _free_run_folder(root: Path) -> Path:
    """The first of ``demo-1``, ``demo-2`` ... that does not exist, so that the demo can be repeated."""
    number = 1
    while (root / f"demo-{number}").exists():
        number += 1
    return root / f"demo-{number}"
