"""The whole main job in small: songs made here, the tiny checkpoint, an adapter, and proof that it learned."""

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


def run_demo(workdir: Path, *, steps: int, say: WriteLine) -> dict[str, Any]:
    """Scan, label, preprocess, train, export and listen, in ``workdir``; returns the figures.

    Raises:
        AceStepError: a step failed, or the adapter did not learn.
    """
    begin = time.monotonic()
    checkpoint = create_tiny_checkpoint(workdir / "checkpoints")
    say(f"tiny checkpoint: {checkpoint}")
    dataset = _songs(workdir)
    say(f"{len(TUNES)} labelled songs of {SECONDS:.0f} s: {dataset}")
    tensors, run = workdir / "tensors", _free_run_folder(workdir / "lora_output")
    preprocessing = PreprocessJob(source=dataset, checkpoint=str(checkpoint), out=tensors)
    _job("preprocess", preprocessing, tensors / "_job", say)
    trained = _job("train", _training(tensors, checkpoint, run, steps), run, say)
    say("exporting and listening")
    exported = export_adapter(run, to="acestep", out=workdir / "export" / run.name)
    heard = _listen(checkpoint, run / "final" / "adapter", Path(exported["adapter"]), workdir / "audio")
    figures = {key: trained[key] for key in ("fit_loss_before", "fit_loss", "zero_loss", "steps")}
    _judge(figures, heard)
    return {**figures, **heard, "export": exported["adapter"], "run": str(run), "seconds": time.monotonic() - begin}


def _songs(workdir: Path) -> Path:
    folder = workdir / "songs"
    write_songs(folder)
    found = scan_folder(folder, name="demo", custom_tag=TAG)
    write_dataset(workdir / "demo.json", found.dataset)
    return workdir / "demo.json"


def _training(tensors: Path, checkpoint: Path, run: Path, steps: int) -> TrainJob:
    """A short, brisk run: every song in each step, a high learning rate, nothing dropped."""
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


def _job(name: str, config: Config, folder: Path, say: WriteLine) -> dict[str, Any]:
    write_job(folder, name, config)
    with stop_on_signals(folder, say), follow_events(folder, say):
        last = run_job(folder)
    if isinstance(last, Finished):
        return last.result
    if isinstance(last, Failed):
        raise AceStepError(f"{name}: {last.message}", hint=last.hint)
    raise JobCancelled(str(last))


def _listen(checkpoint: Path, trained: Path, exported: Path, out: Path) -> dict[str, Any]:
    """The same request without and with the adapter, and with the exported one; written as files and compared."""
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
    """Root mean square of the difference, relative to the first piece's own."""
    return float((one - other).square().mean().sqrt() / one.square().mean().sqrt())


def _judge(figures: dict[str, Any], heard: dict[str, Any]) -> None:
    if not figures["fit_loss"] < 0.9 * min(figures["fit_loss_before"], figures["zero_loss"]):
        raise TrainingError(f"the adapter did not learn: {figures}", hint="Train for more steps.")
    if not heard["audio_difference"] > 0.01 or heard["export_difference"] > 1e-6:
        raise TrainingError(f"the audio does not show the adapter: {heard}", hint="Train for more steps.")


def _free_run_folder(root: Path) -> Path:
    """The first of ``demo-1``, ``demo-2`` ... that does not exist: the demo may be run again and again."""
    number = 1
    while (root / f"demo-{number}").exists():
        number += 1
    return root / f"demo-{number}"
