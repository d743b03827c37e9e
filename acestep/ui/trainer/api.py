"""The API of a running trainer: typed functions with JSON in and out (gradio_client, HTTP).

``start_*`` returns the id of a job at once; ``status`` and ``stop`` take that id. Errors are returned as
``{"error": {"code", "message", "hint"}}``. The functions work on the same state as the page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gradio.events import api

from acestep.core.config import groups, parse
from acestep.core.errors import JobError
from acestep.core.events import Failed, Finished
from acestep.core.jobs import read_job
from acestep.core.paths import safe_name
from acestep.core.runs import list_runs
from acestep.core.untrusted import is_folder
from acestep.dataset.scan import scan_folder
from acestep.dataset.store import write_dataset
from acestep.exporting.configs import MergeJob
from acestep.preprocessing.configs import PreprocessJob
from acestep.training.configs import TrainJob
from acestep.training.evaluation.configs import EstimateJob
from acestep.training.parsing import set_value
from acestep.ui.errors import json_errors
from acestep.ui.job_controls import request_stop
from acestep.ui.jobs import GenerateJob
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.export_tab import export as export_now
from acestep.ui.trainer.generations import list_generations, new_generation_folder
from acestep.ui.trainer.merge_panel import start_merging
from acestep.ui.watch import Watch


class Api:
    """The functions, on the state of the page."""

    def __init__(self, app: AppState) -> None:
        self._app = app

    def publish(self) -> None:
        """Add all functions to the current Gradio app, each under its own name."""
        quick = (self.health, self.status, self.stop, self.list_runs, self.samples)
        slow = (self.check_dataset, self.make_dataset, self.start_preprocessing, self.start_training)
        further = (self.start_estimating, self.start_generating, self.start_merging, self.export)
        for function in (*quick, *slow, *further):
            api(json_errors(function), api_name=function.__name__, queue=function not in quick)

    def health(self) -> dict[str, Any]:
        """Whether models are loaded."""
        service = self._app.service
        return {"models_loaded": service.models_loaded, "llm_loaded": service.llm_loaded}

    def status(self, run_id: str = "") -> dict[str, Any]:
        """The status of a job; without an id, of the latest training run."""
        watch = self._watch(run_id)
        state, view = watch.read()
        last = view.last
        return {
            "run_id": "" if watch.folder is None else self._app.workspace.relative(watch.folder),
            "state": state,
            "phase": view.phase,
            "done": view.done,
            "total": view.total,
            "unit": view.unit,
            "seconds_left": view.seconds_left,
            "loss": view.steps[-1].loss if view.steps else None,
            "left_out": [item.item for item in view.skipped],
            "result": last.result if isinstance(last, Finished) else None,
            "failure": {"code": last.error, "message": last.message, "hint": last.hint}
            if isinstance(last, Failed)
            else None,
        }

    def stop(self, run_id: str = "") -> dict[str, Any]:
        """Ask a job to save and stop; without an id, the latest training run."""
        folder = self._watch(run_id).folder
        for watch in self._app.watches.values():
            if folder is not None and watch.folder == folder and request_stop(watch):
                return {"run_id": self._app.workspace.relative(folder), "state": "stopping"}
        raise JobError("nothing is running", hint="See status.")

    def list_runs(self) -> dict[str, Any]:
        """The training runs on disk, the newest first."""
        runs = list_runs(self._app.runs_folder)
        return {
            "runs": [
                {
                    "run_id": self._app.workspace.relative(run.folder),
                    "state": run.state,
                    "epoch": run.epoch,
                    "step": run.step,
                    "loss": run.loss,
                }
                for run in runs
                if run.job == "train"
            ]
        }

    def samples(self, run_id: str = "") -> dict[str, Any]:
        """Generated audio, the newest first; with the id of a run, only that with its adapters."""
        root = str(self._folder(run_id)) if run_id else ""
        found = [
            piece
            for piece in list_generations(self._app.generations_folder)
            if str(piece.request.adapter).startswith(root)
        ]
        return {
            "samples": [
                {
                    "run_id": self._app.workspace.relative(piece.folder),
                    "audio": str(piece.audio),
                    "adapter": str(piece.request.adapter) if piece.request.adapter else None,
                    "strength": piece.request.strength,
                    "request": piece.request.request.model_dump(mode="json"),
                }
                for piece in found
            ]
        }

    def check_dataset(self, folder: str) -> dict[str, Any]:
        """The songs and labels in a folder, and what could not be used."""
        found = scan_folder(self._app.workspace.folder(folder, "folder"))
        problems = [{"file": str(p.path), "message": p.message, "hint": p.hint} for p in found.problems]
        return {"counts": found.counts, "problems": problems}

    def make_dataset(self, folder: str, name: str, tag: str = "", tag_position: str = "prepend") -> dict[str, Any]:
        """Scan a folder and write datasets/NAME.json; its path is what start_preprocessing takes as source."""
        options: Any = {"name": name, "custom_tag": tag, "tag_position": tag_position}
        found = scan_folder(self._app.workspace.folder(folder, "folder"), **options)
        path = self._app.workspace.root / "datasets" / f"{safe_name(name)}.json"
        write_dataset(path, found.dataset)
        return {"dataset": str(path), "counts": found.counts}

    def start_preprocessing(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start encoding songs. ``config`` has the fields of PreprocessJob: source, checkpoint, out and so on."""
        job = parse(PreprocessJob, config)
        job.source = self._app.workspace.path(str(job.source), "source")
        job.out = self._app.workspace.inside(str(job.out), "out")
        return self._begin("preprocess", job, job.out / "_job")

    def start_training(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start a training run, or resume one. ``config``: tensor_dir, checkpoint, out, resume, and settings by name
        (max_epochs, lora.r ...)."""
        inside = {key: value for key, value in config.items() if key in TrainJob.model_fields}
        defaults = TrainJob.model_construct()  # an unknown setting is reported before missing ones
        for key in config.keys() - inside.keys():
            set_value(defaults, key, config[key])
        job = parse(TrainJob, {name: getattr(defaults, name) for name in groups(TrainJob)} | inside)
        job.tensor_dir = self._app.workspace.folder(str(job.tensor_dir), "tensor_dir")
        job.out = self._app.workspace.inside(str(job.out), "out")
        if job.resume not in (None, "auto"):
            job.resume = str(self._app.workspace.path(str(job.resume), "resume"))
        return self._begin("train", job, job.out)

    def start_estimating(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start a sensitivity analysis. ``config``: tensor_dir, checkpoint and so on."""
        job = parse(EstimateJob, config)
        job.tensor_dir = self._app.workspace.folder(str(job.tensor_dir), "tensor_dir")
        if job.out is not None:
            job.out = self._app.workspace.inside(str(job.out), "out")
        self._app.workspace.inside(str(job.folder), "out")
        return self._begin("estimate", job, job.folder)

    def start_generating(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start a generation. ``config``: checkpoint, adapter, strength, request (prompt, seed ...)."""
        job = parse(GenerateJob, config)
        if job.adapter is not None:
            job.adapter = self._app.workspace.path(str(job.adapter), "adapter")
        return self._begin("generate", job, new_generation_folder(self._app.generations_folder))

    def start_merging(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start merging an adapter into its model. ``config``: checkpoint, adapter, out, strength, layout."""
        folder = start_merging(self._app, parse(MergeJob, config))
        return {"run_id": self._app.workspace.relative(folder), "state": "running"}

    def export(self, run_id: str, checkpoint: str = "final", target: str = "acestep", out: str = "") -> dict[str, Any]:
        """Export the adapter of a run (final, best, or the name of a checkpoint) for another program."""
        folder = self._folder(run_id)
        names = [path for path in (folder / checkpoint, folder / "checkpoints" / checkpoint) if is_folder(path)]
        if not names or checkpoint == ".." or checkpoint != Path(checkpoint).name:
            raise JobError(f"{run_id} has no checkpoint {checkpoint!r}", hint="Use final, best or epoch_<N>.")
        return export_now(self._app, str(names[0]), target, out)

    def _begin(self, job: str, config: Any, folder: Path) -> dict[str, Any]:
        self._app.start(job, config, folder)
        return {"run_id": self._app.workspace.relative(folder), "state": "running"}

    def _folder(self, run_id: str) -> Path:
        """The folder of a job id. Raises JobError for an unknown id."""
        folder = self._app.workspace.path(run_id, "run_id")
        read_job(folder)
        return folder

    def _watch(self, run_id: str) -> Watch:
        if not run_id:
            return self._app.watches["train"]
        folder = self._folder(run_id)
        for watch in self._app.watches.values():
            if watch.folder == folder:
                return watch
        watch = Watch(self._app.runner)
        watch.follow(folder)
        return watch
