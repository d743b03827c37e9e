"""Writes one small example of every file that the program saves, below a folder.

    env/bin/python -m dev.make_saved_files FOLDER

``tests/fixtures/saved_files`` was written by the version that introduced it and is not written again: it stands for
the files on the disks of users. ``tests/test_saved_files.py`` runs this script to compare what the present version
writes. All work is done by commands and by functions that write one file.
"""

from __future__ import annotations

import os
import pkgutil
import shutil
import sys
from pathlib import Path
from typing import Any

import acestep.ui.jobs  # noqa: F401 - registers the jobs of the pages
from acestep.cli.app import main
from acestep.core.config import parse
from acestep.core.errors import AceStepError
from acestep.core.event_log import EventLog
from acestep.core.events import (
    Cancelled,
    EpochLogged,
    Failed,
    Finished,
    ItemFailed,
    LogMessage,
    Progressed,
    Saved,
    Started,
    StepLogged,
)
from acestep.core.jobs import JOBS, write_job
from acestep.dataset.store import read_dataset
from acestep.training.configs import LoRAConfig, TrainingConfig
from acestep.training.interop.profiles import write_profile
from acestep.training.interop.sidestep import write_sidestep
from acestep.ui.captioner import config_file
from acestep.ui.settings import Settings
from tests.fake_cloud import KEY, fake_cloud
from tests.songs import write_song

MODEL = "checkpoints/acestep-v15-tiny"
RUN = "lora_output/lora"
TENSORS = "tensors"
COMMON = ["attention_type=cross", "gradient_accumulation_steps=1", "max_latent_length=20", "log_every_n_steps=1"]
COMMON += ["learning_rate=0.01", "warmup_steps=1"]
ADAPTERS = {
    "lora": ["lora.r=1", "lora.alpha=2", "lora.dropout=0"],
    "dora": ["dora.r=1", "dora.alpha=2", "dora.dropout=0"],
    "lokr": ["lokr.linear_dim=1", "lokr.linear_alpha=2", "lokr.factor=4"],
    "loha": ["loha.r=1", "loha.alpha=2", "loha.dropout=0"],
}
LONG_RUN = ["ema_decay=0.9", "max_epochs=6", "save_every_n_epochs=3", "auto_save_best_after=1"]
LONG_RUN += ["keep_last_n_checkpoints=1", "early_stop_patience=5"]
LONG_RUN += [
    "samples.enabled=true",
    "samples.every_n_epochs=6",
    "samples.steps=1",
    "samples.duration_s=5",
    "samples.prompt=piano",
]
LONG_RUN += ["samples.strengths=1.0"]
SHORT_RUN = ["max_epochs=1", "save_every_n_epochs=0", "auto_save_best_after=0", "measure_every_n_epochs=0"]
JOBS_TO_WRITE: dict[str, dict[str, Any]] = {
    "caption": {
        "audio_dir": "songs",
        "captioner": "gemini",
        "transcriber": "whisper",
        "language": "de",
        "csv": "a.csv",
    },
    "compare": {"checkpoint": MODEL, "adapters": ["", RUN], "strength": 0.5, "request": {"prompt": "piano", "bpm": 90}},
    "download": {"names": ["vae"], "root": "checkpoints", "source": "huggingface"},
    "encode": {"songs": "workers/0.json", "job": {"source": "small.json", "checkpoint": MODEL, "devices": 2}},
    "estimate": {"tensor_dir": TENSORS, "checkpoint": MODEL, "batches": 3, "granularity": "module", "rank": 8},
    "generate": {"checkpoint": MODEL, "adapter": RUN, "strength": 0.5, "request": {"prompt": "piano", "seed": 7}},
    "merge": {"checkpoint": MODEL, "adapter": RUN, "out": "merged", "strength": 0.5, "layout": "diffusers"},
    "preprocess": {"source": "small.json", "checkpoint": MODEL, "out": TENSORS, "two_pass": True, "tag": "mytag"},
    "prove": {"checkpoint": MODEL, "adapter": RUN, "out": "proof", "prompts": ["piano"], "seeds": [1, 2], "steps": 2},
    "train": {
        "tensor_dir": TENSORS,
        "checkpoint": MODEL,
        "out": RUN,
        "resume": "auto",
        "training": {
            "adapter_type": "lokr",
            "optimizer_type": "prodigy",
            "timestep_mu": -0.4,
            "max_epochs": 7,
            "gradient_checkpointing": "off",
        },
        "lora": {"r": 8, "ranks": {"layers.0.self_attn.q_proj": 4}},
        "lokr": {"factor": 8},
        "samples": {"enabled": True, "strengths": "0.5,1.0"},
    },
}
CONTROLS = {"dataset_name": "small", "custom_tag": "mytag", "split_duration": 30, "audio_directory": "songs"}
PAGE_VALUES = {"training.max_epochs": 7, "service.checkpoint": MODEL, "samples.enabled": True, "lora.r": None}
CAPTIONER_VALUES = {
    "folder": "songs",
    "caption.transcriber": "whisper",
    "caption.csv": "labels.csv",
    "caption.max_tokens": 300,
    "split.in": "long",
    "split.seconds": 60,
}

EVENTS = [
    Started(time_s=1.5, job="train", total=6, unit="steps"),
    LogMessage(time_s=2.5, message="loading", warning=True),
    Progressed(time_s=3.5, done=1, total=2, note="one.wav", seconds_left=4.5),
    ItemFailed(time_s=4.5, item="two.wav", message="empty", hint="Remove it."),
    StepLogged(time_s=5.5, step=1, epoch=1, loss=2.5, lr=1e-4, grad_norm=0.5),
    EpochLogged(
        time_s=6.5,
        epoch=1,
        epochs=3,
        step=2,
        seconds=1.25,
        loss=2.5,
        moving_average=2.25,
        best=2.0,
        best_epoch=1,
        fit_loss=1.5,
        validation_loss=1.75,
    ),
    Saved(time_s=7.5, path="lora_output/lora/final", role="final"),
    Finished(time_s=8.5, result={"steps": 6, "best": None}),
    Cancelled(time_s=9.5, message="stopped by the user"),
]


def write_all(folder: Path) -> None:
    """Write every file below ``folder``, which becomes the working directory so that saved paths are relative."""
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if not Path("checkpoints").exists():
        command("make-tiny", "checkpoints")
    label_songs()
    command("preprocess", "small.json", "--checkpoint", MODEL, "--out", TENSORS)
    for kind, settings in ADAPTERS.items():
        train(kind, [*COMMON, *settings, *(LONG_RUN if kind == "lora" else SHORT_RUN)])
    command("estimate", TENSORS, "--checkpoint", MODEL, "--batches", "1")
    command("export", RUN, "--to", "all", "--out", "exports", "--checkpoint", MODEL, "--prompt", "mytag, piano")
    command("merge", "--checkpoint", MODEL, "--adapter", RUN, "--out", "merged")
    prove = ["prove", "--checkpoint", MODEL, "--adapter", RUN, "--out", "proof", "--duration", "1", "--steps", "1"]
    command(*prove, "--prompt", "piano", "--seed", "1", "--seed", "2")
    write_settings_files()
    write_events(Path("events.jsonl"))
    for name, values in JOBS_TO_WRITE.items():
        write_job(Path("jobs") / name, name, parse(pkgutil.resolve_name(JOBS[name].config), values))


def label_songs() -> None:
    """Two songs, their labels from a local stand-in for an online service, and the dataset file."""
    write_song(Path("songs/one.wav"), 2, seed=1)
    write_song(Path("songs/two.wav"), 1.5, seed=2)
    os.environ["GEMINI_API_KEY"] = KEY
    service = ["--captioner", "gemini", "--transcriber", "gemini", "--no-measure"]
    with fake_cloud() as cloud:
        command("caption", "songs", *service, "--gemini-url", cloud.url, "--csv", "labels.csv", "--custom-tag", "mytag")
    command("scan", "songs", "--tag", "mytag", "--out", "small.json", "--name", "small")


def train(kind: str, settings: list[str]) -> None:
    """A run of a few steps."""
    chosen = [argument for setting in [f"adapter_type={kind}", *settings] for argument in ("--set", setting)]
    command("train", TENSORS, "--checkpoint", MODEL, "--out", f"lora_output/{kind}", "--device", "cpu", *chosen)


def write_settings_files() -> None:
    """Profile, preset for Side-Step, page values and configuration of the captioner."""
    configs = {
        "training": TrainingConfig(
            max_epochs=7,
            train_mlp=True,
            learning_rate=2e-4,
            validation_percent=10,
            gradient_checkpointing="off",
        ),
        "lora": LoRAConfig(r=8, alpha=16),
    }
    write_profile(
        Path("profile.json"), configs, controls=CONTROLS, dataset=read_dataset(Path("small.json")), folder="songs"
    )
    write_sidestep(Path("sidestep.json"), configs, description="small")
    Settings(Path("page_values.json")).put(PAGE_VALUES)
    config_file.write(Path("captioner_config.json"), CAPTIONER_VALUES)


def write_events(path: Path) -> None:
    """One event of each type, and a failure with each error."""
    kinds: list[Any] = [AceStepError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    failures = [Failed(time_s=10.5, error=kind.code, message="m", hint="h", is_bug=True) for kind in kinds]
    for event in [*EVENTS, *failures]:
        EventLog(path).emit(event)


def command(*arguments: str) -> None:
    """Run one command of the program. Raises RuntimeError when it fails."""
    if code := main(list(arguments)):
        raise RuntimeError(f"{' '.join(arguments)} ended with exit code {code}")


def keep_small(folder: Path) -> None:
    """Remove what is large or belongs to one computer: the model, audio, logs, locks and the path of ``folder``."""
    models = folder / "checkpoints"
    models.unlink() if models.is_symlink() else shutil.rmtree(models)
    for kind in ("dora", "loha"):
        shutil.rmtree(folder / "lora_output" / kind / "checkpoints")
    for path in [*folder.rglob("*")]:
        if path.suffix in (".wav", ".lock") or path.name in ("lock", "log.txt") or ".tfevents." in path.name:
            path.unlink()
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".csv"):
            path.write_text(path.read_text("utf-8").replace(str(folder), "/home/user/music"), "utf-8")
    for path in (folder / "merged").iterdir():
        if path.name != "merge.json":
            path.unlink() if path.is_file() else shutil.rmtree(path)


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    write_all(target)
    keep_small(target)
