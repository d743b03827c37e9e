"""Every reader of files, with a valid file that it reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from acestep.core.errors import AceStepError
from acestep.core.event_log import EventLog
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import read_job
from acestep.core.runs import list_runs
from acestep.dataset.prompt import training_texts
from acestep.dataset.scan import scan_folder
from acestep.dataset.store import read_dataset, write_dataset
from acestep.tensors.manifest import read_manifest
from acestep.training.configs import TrainJob
from acestep.training.interop.profiles import profile_groups, read_profile
from acestep.training.interop.sidestep import read_sidestep
from acestep.training.parsing import train_job_from_flags
from acestep.training.presets import FOLDER as PRESETS
from acestep.training.presets import read_preset
from acestep.training.state.run_folder import RunFolder, find_resume_source
from acestep.ui.captioner import config_file
from acestep.ui.settings import Settings
from tests.mutated.mutations import mutate

SAVED = Path(__file__).parents[1] / "fixtures" / "saved_files"


@dataclass(frozen=True)
class Reader:
    """``read`` gets a folder with a copy of ``source``, in which one of the files that match ``pattern`` is mutated.

    ``source`` is relative to the saved files, or to the folder of the tiny models if it starts with "models/".
    """

    source: str
    pattern: str
    read: Callable[[Path, Path], object]

    def prepare(self, folder: Path, models: Path) -> list[Path]:
        """Copy the source into ``folder``; gives the files to mutate, relative to it."""
        name = self.source.removeprefix("models/")
        place = PRESETS if self.source == "preset" else (models if self.source.startswith("models/") else SAVED) / name
        if place.is_dir() and self.source != "preset":
            shutil.copytree(place, folder)
        else:
            folder.mkdir()
            shutil.copy(PRESETS / "recommended.json" if self.source == "preset" else place, folder)
        return sorted(path.relative_to(folder) for path in folder.rglob(self.pattern) if path.is_file())


class Readable:
    """A prepared copy of the files of a reader."""

    def __init__(self, reader: Reader, folder: Path, models: Path) -> None:
        self._reader, self._folder, self._models = reader, folder, models
        self._files = reader.prepare(folder, models)
        self._originals = {file: (folder / file).read_bytes() for file in self._files}
        assert self._files, f"{reader.source} has no {reader.pattern}"

    def check(self, random: Random) -> str:
        """Read mutated files: "value" or "error". Any exception other than AceStepError is raised."""
        file = random.choice(self._files)
        changed = mutate(random, file.name, self._originals[file])
        (self._folder / file).write_bytes(changed)
        try:
            self._reader.read(self._folder, self._models)
        except AceStepError:
            return "error"
        finally:
            (self._folder / file).write_bytes(self._originals[file])
        return "value"


def read_adapter_of(folder: Path, models: Path) -> None:
    from acestep.adapters.files import adapter_class
    from acestep.exporting.delta import BaseWeights
    from acestep.exporting.importers import read_any
    from acestep.models.checkpoint import find_checkpoint
    from acestep.models.load import load_dit

    files = list(folder.glob("*.safetensors"))
    stored = read_any(files[0] if len(files) == 1 else folder)
    checkpoint = find_checkpoint(models / "acestep-v15-tiny")
    BaseWeights(checkpoint).check_compatible(stored)
    stored.metadata.to_file_metadata()
    adapter_class(stored.kind).from_stored(load_dit(checkpoint), stored)


def export_adapter_of(folder: Path, models: Path) -> None:
    from acestep.exporting.package import export_adapter

    out = folder.with_name("exported")
    shutil.rmtree(out, ignore_errors=True)
    export_adapter(folder, "all", out=out, checkpoint=models / "acestep-v15-tiny")


def read_checkpoint(folder: Path, models: Path) -> None:
    from acestep.models.checkpoint import check_checkpoint, encoder_fingerprint, find_checkpoint
    from acestep.models.load import load_audio_tokenizer, load_condition_encoder, load_dit

    checkpoint = find_checkpoint(folder)
    check_checkpoint(checkpoint)
    encoder_fingerprint(checkpoint)
    load_dit(checkpoint)
    load_condition_encoder(checkpoint)
    load_audio_tokenizer(checkpoint)


def read_vae(folder: Path, models: Path) -> None:
    from acestep.models.load import load_vae

    load_vae(_beside(folder, models, "vae"))


def read_text_encoder(folder: Path, models: Path) -> None:
    from acestep.models.load import load_text_encoder

    load_text_encoder(_beside(folder, models, "Qwen3-Embedding-0.6B"))


def _beside(folder: Path, models: Path, name: str) -> Path:
    """A checkpoint folder whose component ``name`` is ``folder``."""
    root = folder.with_name("beside")
    if not root.is_dir():
        root.mkdir()
        (root / "acestep-v15-tiny").symlink_to(models / "acestep-v15-tiny")
        for component in ("vae", "Qwen3-Embedding-0.6B"):
            (root / component).symlink_to(folder if component == name else models / component)
    return root / "acestep-v15-tiny"


def read_training_state(folder: Path, models: Path) -> None:
    from acestep.training.state.checkpoint import require_resumable
    from acestep.training.state.run_folder import ResumeSource
    from acestep.training.state.tensor_tree import read_state

    require_resumable(ResumeSource(folder, exact=True), {"adapter_type": "lokr"})
    read_state(folder / "state")


def read_samples(folder: Path, models: Path) -> None:
    from acestep.core.errors import TensorError
    from acestep.tensors.record import encode_record, read_record

    for path in read_manifest(folder).paths:
        try:
            encode_record(read_record(path))
        except TensorError:
            continue


def read_events(folder: Path, models: Path) -> None:
    events, _ = EventLog(folder / "events.jsonl").read()
    for event in events:
        str(event).encode(errors="replace")


def read_job_folder(folder: Path, models: Path) -> None:
    list_runs(folder)
    str(JobFolder(folder).state)
    read_job(folder)


def read_run(folder: Path, models: Path) -> None:
    run = RunFolder(folder)
    run.read_settings()
    run.latest_checkpoint()
    find_resume_source("auto", run)
    train_job_from_flags({"tensor_dir": folder, "checkpoint": "x", "out": folder, "resume": "auto"}, None, [])


def read_labels(folder: Path, models: Path) -> None:
    from tests.songs import write_song

    if not (folder / "one.wav").is_file():
        for name in ("one", "two"):
            write_song(folder / f"{name}.wav", 1.0, 0)
    found = scan_folder(folder)
    training_texts(found.dataset)
    write_dataset(folder.with_name("dataset.json"), found.dataset)


def read_dataset_file(folder: Path, models: Path) -> None:
    dataset = read_dataset(folder / "small.json")
    training_texts(dataset)
    write_dataset(folder.with_name("dataset.json"), dataset)


def read_profile_file(folder: Path, models: Path) -> None:
    profile = read_profile(folder / "profile.json")
    job = TrainJob(tensor_dir=folder, checkpoint="x", out=folder)
    configs = {"job": job} | {name: getattr(job, name) for name in profile_groups() if hasattr(job, name)}
    str([*profile.remarks, *profile.apply(configs)])


def read_page_values(folder: Path, models: Path) -> None:
    settings = Settings(folder / "page_values.json")
    settings.put({"x": 1})
    settings.text("x")
    if not (folder / "page_values.json").is_file():
        settings.put({"x": 2})


READERS: dict[str, Reader] = {
    **{
        f"{kind} adapter": Reader(f"lora_output/{kind}/final/adapter", "*", read_adapter_of)
        for kind in ("lora", "dora", "lokr", "loha")
    },
    "comfyui adapter": Reader("exports/comfyui/lora", "*.safetensors", read_adapter_of),
    "diffusers adapter": Reader("exports/diffusers/lora", "*.safetensors", read_adapter_of),
    "exported lora": Reader("lora_output/lora/final/adapter", "*", export_adapter_of),
    "exported lokr": Reader("lora_output/lokr/final/adapter", "*", export_adapter_of),
    "base model": Reader("models/acestep-v15-tiny", "*", read_checkpoint),
    "VAE": Reader("models/vae", "*", read_vae),
    "text encoder": Reader("models/Qwen3-Embedding-0.6B", "*.json", read_text_encoder),
    "training state": Reader("lora_output/lokr/checkpoints/epoch_1", "state/*", read_training_state),
    "samples": Reader("tensors", "*.pt", read_samples),
    "manifest": Reader("tensors", "manifest.json", read_samples),
    "event log": Reader("events.jsonl", "*", read_events),
    "job folder": Reader("lora_output/lora", "job.json", read_job_folder),
    "run folder": Reader("lora_output/lokr", "*.json", read_run),
    "label files": Reader("songs", "*.*", read_labels),
    "label table": Reader("labels.csv", "*.csv", read_labels),
    "dataset": Reader("small.json", "*", read_dataset_file),
    "preset": Reader("preset", "*", lambda folder, models: read_preset(folder / "recommended.json")),
    "profile": Reader("profile.json", "*", read_profile_file),
    "Side-Step preset": Reader("sidestep.json", "*", lambda folder, models: read_sidestep(folder / "sidestep.json")),
    "page settings": Reader("page_values.json", "*", read_page_values),
    "captioner settings": Reader(
        "captioner_config.json", "*", lambda folder, models: config_file.read(folder / "captioner_config.json")
    ),
}
