"""The job: measure and describe all songs, unload, then write down their lyrics.

Each song's labels are on the disk before the next song begins, so a stopped job goes on with what is missing. Its
label files are read again at that moment: what a person has typed since the job began stays. A song that fails is told
and left out; only what would fail every song ends the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from loguru import logger

from acestep.audio.analysis import analyse
from acestep.captioning.base import CAPTIONERS, RATE_HZ, TRANSCRIBERS, Captioner, Song, Transcriber
from acestep.captioning.batch import Batch, tell, unit_of
from acestep.captioning.configs import CaptionJob
from acestep.captioning.decode import decoded
from acestep.captioning.measure import METADATA, answered_as_json, measured_as_json, weigh
from acestep.captioning.pace import Pace, Step, describing, steps_of, transcribing
from acestep.captioning.plan import Plan, Task, make_plan
from acestep.captioning.share import caption_shares
from acestep.captioning.sidecar import at_hand, lyric_labels, mapping, write_labels
from acestep.captioning.table import write_table
from acestep.core.device_lock import lock_device
from acestep.core.errors import AceStepError, CaptionError, DiskFull, JobCancelled, ServiceRefused
from acestep.core.events import Event, ItemFailed, LogMessage, Saved, Started
from acestep.core.jobs import Context
from acestep.core.workers import MergedEvents
from acestep.models.device import choose_device

_STAYS = "your own text stays"

Work = Callable[[Task, Song], str]


def caption_job(config: CaptionJob, context: Context) -> dict[str, Any]:
    """Label the songs of a folder. Gives counts, failures with their reasons, and disagreements by song.

    Raises:
        DatasetError: no songs. CheckpointError, DownloadError, ConfigError: a model cannot be had.
        ServiceRefused: a service takes no requests. CaptionError: not a single song could be done.
        DiskFull, JobCancelled.
    """
    plan = make_plan(config)
    steps = steps_of(plan, config)
    batch = Batch(config, context, len(steps), Pace(steps))
    work = [task for task in plan.tasks if task.open]
    context.emit(Started(job="caption", total=batch.total, unit=unit_of(plan)))
    if context.whole is None:  # else the whole job, of which this is a share, has told it
        tell(batch, plan)
    if config.devices > 1 and work:
        _share(batch, work)
    else:
        with lock_device(_device(plan, config), "captioning", context):
            _describe_all(batch, plan.first)
            _transcribe_all(batch, plan.second)
    if context.whole is None and batch.failed and not any(batch.counts.values()) and len(work) == len(plan.tasks):
        name, reason = next(iter(batch.failed.items()))
        raise CaptionError(f"no song could be labelled; {name}: {reason}")
    table = write_table(config) if config.csv else None
    if table:
        context.emit(Saved(path=str(table), role="labels"))
    return {
        "songs": len(plan.tasks),
        "skipped": len(plan.tasks) - len(work),
        **batch.counts,
        "failed": batch.failed,
        "disagreements": batch.disagreements,
        "csv": str(table) if table else None,
    }


def _device(plan: Plan, config: CaptionJob) -> str:
    """Where models will be; the processor if none is needed. Raises ConfigError."""
    local = [config.captioner for task in plan.first if task.describe] + [config.transcriber for _ in plan.second]
    return choose_device(config.device).value if "local" in local else "cpu"


def _share(batch: Batch, work: list[Task]) -> None:
    """A process for each device labels its share of the songs."""

    def hear(event: Event) -> None:
        if isinstance(event, ItemFailed):
            batch.failed[event.item] = event.message
        batch.context.emit(event)

    merged = MergedEvents(hear, batch.total)
    for result in caption_shares(batch.config, [task.name for task in work], batch.context.folder, merged):
        batch.counts = {name: count + result[name] for name, count in batch.counts.items()}
        batch.disagreements |= result["disagreements"]


def _describe_all(batch: Batch, tasks: list[Task]) -> None:
    """Pass 1: caption, genre, tempo, key, meter; lyrics too where the captioner hears both."""
    captioner: Captioner | None = None
    try:
        if any(task.describe for task in tasks):
            captioner = CAPTIONERS[batch.config.captioner].load()(batch.config, batch.context.emit)
        listens = captioner is not None and captioner.listens
        work = [(task, task.measure or (listens and task.describe)) for task in tasks]
        _each(batch, work, describing, lambda task, song: _describe(batch, captioner, task, song))
    finally:
        if captioner is not None:
            captioner.close()


def _transcribe_all(batch: Batch, tasks: list[Task]) -> None:
    """Pass 2: lyrics of the songs that still have none."""
    if not tasks:
        return
    transcriber = TRANSCRIBERS[batch.config.transcriber].load()(batch.config, batch.context.emit)
    try:
        work = [(task, transcriber.listens) for task in tasks]
        _each(batch, work, transcribing, lambda task, song: _transcribe(batch, transcriber, task, song))
    finally:
        transcriber.close()


def _each(batch: Batch, tasks: list[tuple[Task, bool]], step: Callable[[Task, CaptionJob], Step], work: Work) -> None:
    """Song after song: the border where the error of one song becomes an event."""
    for task, sound in decoded(tasks):
        batch.context.stop_if_cancelled()
        began_s = time.monotonic()
        note = "left out"
        try:
            note = work(task, Song(task.known.audio, sound.result()))
        except (JobCancelled, ServiceRefused, DiskFull):
            raise
        except AceStepError as error:
            batch.fail(task.name, str(error), error.hint)
        except Exception as error:  # noqa: BLE001 - one song never ends the batch
            logger.exception("{} failed", task.name)
            batch.fail(task.name, str(error) or type(error).__name__, "This is our fault; the details are in the log.")
        batch.did(step(task, batch.config), time.monotonic() - began_s, f"{task.name}: {note}")


def _describe(batch: Batch, captioner: Captioner | None, task: Task, song: Song) -> str:
    """Measure and describe one song, and write it. Gives what to tell about it."""
    found: dict[str, Any] = {}
    if task.measure and song.audio is not None:
        found["measured"] = measured_as_json(analyse(song.audio, RATE_HZ))
        batch.counts["measured"] += 1
    if captioner is None or not task.describe:
        _write_description(batch, task, {}, found)
        return ", ".join(str(task.known.values.get(name, "?")) for name in METADATA)
    try:
        said = captioner.describe(song, with_lyrics=task.both, stop=lambda: batch.context.cancelled)
        if not said.caption.strip():
            raise CaptionError(f"{captioner.name} gave no caption for {task.name}", hint="Try it again.")
    except CaptionError:
        if found:
            _write_description(batch, task, {}, found)
        raise
    labels: dict[str, tuple[Any, str]] = {"caption": (said.caption.strip(), captioner.name)}
    if said.genre:
        labels["genre"] = (said.genre, captioner.name)
    if task.both and said.lyrics is not None:
        labels |= lyric_labels(said.lyrics.text, said.lyrics.language, captioner.name)
    written = _write_description(batch, task, labels, {**found, "answered": answered_as_json(said, captioner.name)})
    batch.counts["described"] += "caption" in written
    if task.both and said.lyrics is not None:
        batch.counts["transcribed"] += "lyrics" in written
        task.transcribe = False
    line = " ".join(said.caption.split()) if "caption" in written else _STAYS
    return line if len(line) <= 80 else f"{line[:79]}\u2026"


def _write_description(batch: Batch, task: Task, labels: dict[str, tuple[Any, str]], found: dict[str, Any]) -> set[str]:
    """Write labels with tempo, key and meter as weighed from both sides, of this time or of before.

    Gives the names of those that were written.
    """
    sides = [found.get(name) or mapping(task.known.extra.get(name)) for name in ("measured", "answered")]
    verdict = weigh(*sides, prefer=batch.config.prefer)
    if verdict.disagreements:
        batch.disagreements[task.name] = verdict.disagreements
    return _write(batch, task, {**verdict.labels, **labels}, {**found, "disagreements": verdict.disagreements})


def _transcribe(batch: Batch, transcriber: Transcriber, task: Task, song: Song) -> str:
    """Write down the words of one song."""
    lyrics = transcriber.transcribe(song, stop=lambda: batch.context.cancelled)
    if not lyrics.complete:
        message = f"{task.name}: the lyrics may be cut off; allow more lyrics tokens"
        batch.context.emit(LogMessage(message=message, warning=True))
    written = _write(batch, task, lyric_labels(lyrics.text, lyrics.language, transcriber.name), {})
    if "lyrics" not in written:
        return _STAYS
    batch.counts["transcribed"] += 1
    return "instrumental" if lyrics.is_instrumental else f"{lyrics.text.count(chr(10)) + 1} lines, {lyrics.language}"


def _write(batch: Batch, task: Task, labels: dict[str, tuple[Any, str]], extra: dict[str, Any]) -> set[str]:
    """Write what may be written, and give its names.

    What a person typed stays, unless all was to be replaced: then what was typed since the job began stays.
    """
    config = batch.config
    extra = {"duration": task.sample.duration, **extra}
    if config.custom_tag.strip():
        extra["custom_tag"] = config.custom_tag.strip()
    with at_hand(task.sample) as known:
        closed = known.typed_since(task.known)
        allowed = {
            name: value
            for name, value in labels.items()
            if name not in closed and known.may_write(name, config.existing)
        }
        replaced = bool(known.locked & set(allowed))
        path = write_labels(known, allowed, extra=extra, texts=config.write_texts, backup=replaced)
    task.known.wrote(allowed, known.extra)
    batch.context.emit(Saved(path=str(path), role="labels"))
    return set(allowed)
