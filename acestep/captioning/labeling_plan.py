"""Plan of a captioning job: which songs in a folder lack which labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from acestep.captioning.backends import CAPTIONERS
from acestep.captioning.configs import NONE, CaptionJob
from acestep.captioning.measure import METADATA
from acestep.captioning.sidecar import SongLabels, read_labels
from acestep.core.errors import AceStepError, DatasetError
from acestep.dataset.labels import Problem
from acestep.dataset.sample import Sample
from acestep.dataset.scan import scan_folder


@dataclass
class SongPlan:
    """One song and the labels that the job has to add.

    Attributes:
        name: path below the audio folder.
        lyrics_with_caption: one request returns caption and lyrics.
    """

    name: str
    sample: Sample
    known: SongLabels
    describe: bool
    measure: bool
    transcribe: bool
    lyrics_with_caption: bool

    @property
    def is_open(self) -> bool:
        return self.describe or self.measure or self.transcribe


@dataclass(frozen=True, slots=True)
class LabelingPlan:
    """All requested songs, and the files that are skipped with the reason."""

    root: Path
    songs: list[SongPlan]
    problems: list[Problem]

    @property
    def to_describe(self) -> list[SongPlan]:
        """The songs of the first pass: described, measured or both."""
        return [song for song in self.songs if song.describe or song.measure]

    @property
    def to_transcribe(self) -> list[SongPlan]:
        """The songs of the second pass."""
        return [song for song in self.songs if song.transcribe and not song.lyrics_with_caption]


def make_plan(config: CaptionJob) -> LabelingPlan:
    """Read the folder and its label files. Decodes no audio and loads no model.

    Raises:
        DatasetError: the folder does not exist or has no songs, or ``only`` names a missing song.
    """
    found = scan_folder(config.audio_dir)
    root = config.audio_dir.expanduser().resolve()
    samples = {song_name(Path(sample.audio_path), root): sample for sample in found.dataset.samples}
    if config.only:
        unknown = [name for name in config.only if name not in samples]
        if unknown:
            raise DatasetError(f"{unknown[0]} is not a song in {root}", hint="Scan the folder again.")
        samples = {name: samples[name] for name in config.only}
    songs, problems = [], list(found.problems)
    for name, sample in samples.items():
        try:
            songs.append(_plan_song(name, sample, config))
        except AceStepError as error:
            problems.append(Problem(Path(sample.audio_path), str(error), error.hint))
    return LabelingPlan(root, songs, problems)


def song_name(path: Path, root: Path) -> str:
    """The name of a song in messages and in ``only``: its path below the audio folder."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _plan_song(name: str, sample: Sample, config: CaptionJob) -> SongPlan:
    known = read_labels(sample)

    def may_write_any(*labels: str) -> bool:
        return any(known.may_write(label, config.existing) for label in labels)

    describe = config.captioner != NONE and may_write_any("caption")
    instrumental = (
        "is_instrumental" in known.locked and known.values["is_instrumental"] and config.existing != "replace"
    )
    transcribe = config.transcriber != NONE and may_write_any("lyrics") and not instrumental
    same_service = config.captioner == config.transcriber
    return SongPlan(
        name,
        sample,
        known,
        describe=describe,
        measure=config.measure
        and may_write_any(*METADATA)
        and not ("measured" in known.extra and config.existing == "keep"),
        transcribe=transcribe,
        lyrics_with_caption=describe and transcribe and same_service and CAPTIONERS[config.captioner].with_lyrics,
    )
