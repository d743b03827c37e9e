"""The command line: every job of the pages, headless.

Progress and messages go to stderr. With ``--json`` the last line of stdout is one JSON object.
Exit codes: 0 done, 1 a user's mistake, 2 wrong usage, 3 our fault, 130 stopped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer
from loguru import logger

from acestep.captioning.configs import CaptionJob, backend_names, use_backend
from acestep.cli_adapters import adapter_commands
from acestep.cli_bench import bench_commands
from acestep.cli_memory import memory
from acestep.cli_settings import settings
from acestep.console import Json, answer, do, print_error, print_json, say
from acestep.core.errors import AceStepError, DatasetError, JobCancelled, code_of
from acestep.core.events import describe
from acestep.core.jobs import read_job
from acestep.core.log import set_up_logging
from acestep.core.runs import list_runs
from acestep.flags import add_command
from acestep.models.configs import GenerationConfig
from acestep.preprocessing.configs import PreprocessJob
from acestep.training.configs import TrainJob, train_job_from_flags
from acestep.training.evaluation.configs import EstimateJob
from acestep.training.state.run_folder import RunFolder

app = typer.Typer(
    name="acestep",
    help="Teach the ACE-Step 1.5 music model a new style: songs in, adapter out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Variant = Literal["turbo", "base", "xl-base"]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code; a user's mistake never shows a traceback."""
    arguments = sys.argv[1:] if argv is None else argv
    set_up_logging(verbose=bool(os.environ.get("ACESTEP_VERBOSE")))
    try:
        app(args=arguments, prog_name="python -m acestep")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except JobCancelled as stop:
        return _refuse(stop, 130, arguments)
    except AceStepError as error:
        return _refuse(error, 1, arguments)
    except Exception as error:  # noqa: BLE001 - the outermost border: our own faults
        logger.exception("unexpected")
        return _refuse(error, 3, arguments)
    return 0


def _refuse(error: BaseException, code: int, arguments: list[str]) -> int:
    print_error(code_of(error), str(error), getattr(error, "hint", ""), "--json" in arguments)
    return code


# Jobs with a run folder: flags from their configurations.


def preprocess(config: PreprocessJob, json_output: bool) -> None:
    """Turn songs and labels into training tensors."""
    do("preprocess", config, config.folder, json_output)


add_command(app, "preprocess", PreprocessJob, preprocess, arguments=("source",), extra={"json_output": (Json, False)})


def caption(config: CaptionJob, backend: str | None, json_output: bool) -> None:
    """Describe, measure and transcribe the songs of a folder. The labels are written beside each song."""
    if not config.audio_dir.is_dir():
        raise DatasetError(f"{config.audio_dir} is not a folder", hint="Give the folder that holds the songs.")
    if backend is not None:
        use_backend(config, backend)
    do("caption", config, config.audio_dir / ".captioning", json_output)


add_command(
    app,
    "caption",
    CaptionJob,
    caption,
    arguments=("audio_dir",),
    leave_out=("only",),
    extra={
        "backend": (Annotated[str | None, typer.Option(help=f"Use one backend: {', '.join(backend_names())}.")], None),
        "json_output": (Json, False),
    },
)


@app.command()
def train(
    tensor_dir: Annotated[Path, typer.Argument(help="Folder of preprocessed tensors.")],
    checkpoint: Annotated[str, typer.Option(help="Name or folder of the model.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    preset: Annotated[
        str | None, typer.Option(help="Settings to begin with: a name or a JSON file. Without it: recommended.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with settings.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, key=value. May be repeated.")] = None,
    resume: Annotated[str | None, typer.Option(help="auto, or a checkpoint folder to go on from.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps or xpu.")] = "auto",
    devices: Annotated[int, typer.Option(help="Graphics cards of this machine that share each step.")] = 1,
    num_nodes: Annotated[int, typer.Option(help="Machines that share each step; see the guide.")] = 1,
    strategy: Annotated[Literal["ddp", "fsdp"], typer.Option(help="fsdp splits the frozen model; CUDA only.")] = "ddp",
    json_output: Json = False,
) -> None:
    """Train an adapter on tensors."""
    where = {"device": device, "devices": devices, "num_nodes": num_nodes, "strategy": strategy}
    flags = {"tensor_dir": tensor_dir, "checkpoint": checkpoint, "out": out, "resume": resume, **where}
    job = train_job_from_flags(flags, config, set_ or [], preset)
    do("train", job, job.folder, json_output)


def estimate(config: EstimateJob, json_output: bool) -> None:
    """Rank the parts of a model by how much the songs would change them, and propose a rank for each."""
    do("estimate", config, config.folder, json_output)


add_command(app, "estimate", EstimateJob, estimate, arguments=("tensor_dir",), extra={"json_output": (Json, False)})


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="A run folder.")],
    json_output: Json = False,
    as_written: Annotated[bool, typer.Option("--as-written", hidden=True)] = False,
) -> None:
    """Do the job of a run folder, or go on with it where it stopped."""
    name, config = read_job(folder)
    if (
        not as_written
        and isinstance(config, TrainJob)
        and (config.resume is None or RunFolder(config.out).latest_checkpoint())
    ):
        config.resume = "auto"  # where this run stands, no longer where it began
    do(name, config, folder, json_output, written=as_written)


# Short commands.


@app.command()
def demo(
    workdir: Annotated[Path, typer.Option(help="Where the demo may write.")] = Path("demo_output"),
    steps: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = 120,
    json_output: Json = False,
) -> None:
    """The whole main job on a tiny model and songs made here: scan, preprocess, train, export, listen."""
    from acestep.demo import run_demo

    answer(run_demo(workdir, steps=steps, say=say), json_output)


@app.command("make-tiny")
def make_tiny(
    folder: Annotated[Path, typer.Argument(help="Where the checkpoint set is written.")],
    variant: Annotated[Variant, typer.Option(help="Which family.")] = "turbo",
    json_output: Json = False,
) -> None:
    """Write a tiny checkpoint set with the true architecture and seeded weights, for trying and testing."""
    from acestep.models.tiny import create_tiny_checkpoint

    answer({"checkpoint": str(create_tiny_checkpoint(folder, variant))}, json_output)


@app.command()
def scan(
    audio_dir: Annotated[Path, typer.Argument(help="Folder of songs, searched with its sub-folders.")],
    tag: Annotated[str, typer.Option(help="Activation tag: the word that will call the style.")],
    out: Annotated[Path, typer.Option(help="Dataset file to write.")] = Path("datasets/my_lora_dataset.json"),
    name: Annotated[str, typer.Option(help="Name of the dataset.")] = "my_lora_dataset",
    tag_position: Annotated[Literal["prepend", "append", "replace"], typer.Option()] = "prepend",
    json_output: Json = False,
) -> None:
    """Find songs and their labels and write a dataset file."""
    from acestep.dataset.scan import scan_folder
    from acestep.dataset.store import write_dataset

    found = scan_folder(audio_dir, name=name, custom_tag=tag, tag_position=tag_position)
    for problem in found.problems:
        say(f"{problem.path}: {describe(problem.message, problem.hint)}")
    write_dataset(out, found.dataset)
    samples = found.dataset.samples
    unlabelled = [sample.filename for sample in samples if not sample.labeled]
    result = {"dataset": str(out), "songs": len(samples), "labelled": len(samples) - len(unlabelled)}
    answer({**result, "unlabelled": unlabelled, "problems": [str(p.path) for p in found.problems]}, json_output)


@app.command()
def split(
    audio_dir: Annotated[Path, typer.Argument(help="Folder of long recordings.")],
    out: Annotated[Path, typer.Argument(help="Folder for the pieces.")],
    seconds: Annotated[int, typer.Option(help="Length of a piece.", min=10, max=600)] = 30,
    json_output: Json = False,
) -> None:
    """Cut long recordings into pieces of equal length."""
    from acestep.audio.split import split_folder

    result = split_folder(
        audio_dir, out, seconds, on_progress=lambda done, total, name: say(f"[{done}/{total}] {name}")
    )
    answer({"pieces": [str(path) for path in result.pieces], "left_out": result.left_out}, json_output)


def generate(
    config: GenerationConfig, checkpoint: str, out: Path, adapter: Path | None, strength: float, json_output: bool
) -> None:
    """Make music from text, with an adapter at any strength."""
    from acestep.audio.files import write_audio
    from acestep.models.checkpoint import find_checkpoint

    find_checkpoint(checkpoint)  # a wrong name is told before torch is loaded
    from acestep.handler import AceStepHandler

    handler = AceStepHandler(checkpoint)
    say(f"{handler.checkpoint.name} on {handler.device.value} ({handler.device.reason})")
    if adapter is not None:
        handler.load_adapter(adapter, strength=strength)
    audio = handler.generate(config, on_step=lambda step, steps: say(f"[{step}/{steps}]"))
    write_audio(out, audio)
    answer({"audio": str(out), "seconds": audio.shape[1] / 48_000, **handler.adapter_status()}, json_output)


add_command(
    app,
    "generate",
    GenerationConfig,
    generate,
    extra={
        "checkpoint": (Annotated[str, typer.Option(help="Name or folder of the model.")], ...),
        "out": (Annotated[Path, typer.Option(help="File to write: .wav, .flac, .mp3 or .opus.")], ...),
        "adapter": (Annotated[Path | None, typer.Option(help="Adapter folder or file.")], None),
        "strength": (Annotated[float, typer.Option(help="0 is the model alone, 1 the adapter as trained.")], 1.0),
        "json_output": (Json, False),
    },
)


@app.command()
def download(
    names: Annotated[list[str], typer.Argument(help="Models by name; see 'download list'.")],
    root: Annotated[Path | None, typer.Option(help="Checkpoints folder.")] = None,
    source: Annotated[Literal["auto", "huggingface", "modelscope"], typer.Option()] = "auto",
    json_output: Json = False,
) -> None:
    """Fetch models, checked complete before they count as present. 'download list' shows the names."""
    from acestep.core.paths import PROJECT
    from acestep.models.catalog import CATALOG

    if names == ["list"]:
        return answer({model.name: f"{model.about} ({model.size_gb:.1f} GB)" for model in CATALOG}, json_output)
    from acestep.models.download import download as fetch

    folders = fetch(names, root or PROJECT / "checkpoints", source=source, on_progress=lambda event: say(str(event)))
    return answer({"folders": [str(folder) for folder in folders]}, json_output)


@app.command()
def runs(
    root: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("lora_output"), json_output: Json = False
) -> None:
    """The runs on this disk, newest first."""
    found = list_runs(root)
    rows = [
        {"run": str(r.folder), "job": r.job, "state": r.state, "epoch": r.epoch, "step": r.step, "loss": r.loss}
        for r in found
    ]
    if json_output:
        return print_json({"ok": True, "runs": rows})
    for row in rows or [{"run": f"no runs below {root}"}]:
        typer.echo("  ".join(f"{value}" for value in row.values() if value is not None))
    return None


@app.command()
def doctor(json_output: Json = False) -> None:
    """Check this computer: Python, packages, device, disk, models."""
    from acestep.doctor import diagnose

    checks = diagnose(deep=True)
    for check in checks:
        say(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail} {'' if check.ok else check.hint}".rstrip())
    ok = all(check.ok for check in checks)
    if json_output:
        print_json({"ok": ok, "checks": {c.name: {"ok": c.ok, "detail": c.detail, "hint": c.hint} for c in checks}})
    raise typer.Exit(0 if ok else 1)


app.add_typer(adapter_commands)
app.command()(memory)
app.command()(settings)
app.add_typer(bench_commands, name="bench")
