"""Which songs of a folder lack what: the work that is ahead of a job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acestep.captioning.cloud import SERVICES, cost_note
from acestep.captioning.configs import CaptionJob
from acestep.captioning.measure import METADATA
from acestep.captioning.sidecar import Known, known_of
from acestep.core.errors import AceStepError, DatasetError
from acestep.dataset.labels import Problem
from acestep.dataset.sample import Sample
from acestep.dataset.scan import scan_folder


@dataclass
class Task:
    """One song and what is still to be done for it. ``name`` is its path below the folder."""

    name: str
    sample: Sample
    known: Known
    describe: bool
    measure: bool
    transcribe: bool
    both: bool  # words and music in one call

    @property
    def open(self) -> bool:
        return self.describe or self.measure or self.transcribe


@dataclass(frozen=True, slots=True)
class Plan:
    """Every song that was asked for, and the files that are left out with the reason."""

    root: Path
    tasks: list[Task]
    problems: list[Problem]

    @property
    def first(self) -> list[Task]:
        """The songs of the first pass: to be described, measured or both."""
        return [task for task in self.tasks if task.describe or task.measure]

    @property
    def second(self) -> list[Task]:
        """The songs of the second pass, whose lyrics are written down."""
        return [task for task in self.tasks if task.transcribe and not task.both]


def make_plan(config: CaptionJob) -> Plan:
    """Look at the folder and its label files. Nothing is decoded or loaded.

    Raises:
        DatasetError: no such folder, no songs, or ``only`` names a song that is not there.
    """
    found = scan_folder(config.audio_dir)
    root = config.audio_dir.expanduser().resolve()
    songs = {place(Path(sample.audio_path), root): sample for sample in found.dataset.samples}
    if config.only:
        unknown = [name for name in config.only if name not in songs]
        if unknown:
            raise DatasetError(f"{unknown[0]} is not a song in {root}", hint="Scan the folder again.")
        songs = {name: songs[name] for name in config.only}
    tasks, problems = [], list(found.problems)
    for name, sample in songs.items():
        try:
            tasks.append(_task(name, sample, config))
        except AceStepError as error:
            problems.append(Problem(Path(sample.audio_path), str(error), error.hint))
    return Plan(root, tasks, problems)


def place(path: Path, root: Path) -> str:
    """How a song is called in messages and in ``only``."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def cost_notes(plan: Plan, config: CaptionJob) -> list[str]:
    """What the online services will cost, one sentence each."""
    work = {
        config.captioner: [task for task in plan.tasks if task.describe],
        config.transcriber: [task for task in plan.tasks if task.transcribe or task.describe and task.both],
    }
    return [
        cost_note(service, sum(task.sample.duration for task in tasks))
        for service, tasks in work.items()
        if service in SERVICES and tasks
    ]


def _task(name: str, sample: Sample, config: CaptionJob) -> Task:
    known = known_of(sample)

    def wanted(*labels: str) -> bool:
        return any(known.may_write(label, config.existing) for label in labels)

    describe = config.captioner != "none" and wanted("caption")
    silent = "is_instrumental" in known.locked and known.values["is_instrumental"] and config.existing != "replace"
    transcribe = config.transcriber != "none" and wanted("lyrics") and not silent
    return Task(
        name,
        sample,
        known,
        describe=describe,
        measure=config.measure and wanted(*METADATA) and not ("measured" in known.extra and config.existing == "keep"),
        transcribe=transcribe,
        both=describe and transcribe and config.captioner == config.transcriber == "gemini",
    )
