"""The captioning job: measure and describe all songs, free the captioner, then transcribe lyrics.

The labels of each song are saved before the next song starts, so an interrupted job resumes with what is missing. The
label files are read again before each write, so labels that a person edited since the job started are kept. A song
that fails is reported and skipped. Only an error that affects every song ends the job.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loguru import logger

from acestep.audio.analysis import analyse
from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS
from acestep.captioning.configs import CaptionJob
from acestep.captioning.decode import decode_ahead
from acestep.captioning.labeling_plan import LabelingPlan, SongPlan, make_plan
from acestep.captioning.measure import METADATA, answered_as_json, measured_as_json, weigh
from acestep.captioning.multi_device import caption_on_devices
from acestep.captioning.progress import CaptionProgress, LabeledShare, progress_unit, report_plan
from acestep.captioning.schema import SAMPLE_RATE_HZ, Captioner, SongAudio, Transcriber
from acestep.captioning.sidecar import as_dict, complete_texts, locked_labels, lyric_labels, write_labels
from acestep.captioning.table import write_table
from acestep.captioning.time_estimate import LabelingStep, TimeEstimate, describe_step, list_steps, transcribe_step
from acestep.core.errors import AceStepError, CaptionError, DiskFull, JobCancelled, ServiceRefused
from acestep.core.events import Event, ItemFailed, LogMessage, Saved, Started
from acestep.core.files import remove_temporary_files, storage_errors
from acestep.core.jobs import Context
from acestep.core.workers import MergedEvents
from acestep.models.device import choose_device, choose_launched_device
from acestep.models.memory_limit import use_device
from acestep.models.process_group import ProcessGroup

_KEPT = "kept your own text"
_MAX_NOTE_CHARS = 80

LabelSong = Callable[[SongPlan, SongAudio], str]


def caption_job(config: CaptionJob, context: Context) -> dict[str, Any]:
    """Label the songs in a folder. Returns counts, failures with reasons, and disagreements by song.

    Of several processes that a launcher started, only rank 0 returns those of all.

    Raises:
        DatasetError: no songs.
        CheckpointError, DownloadError, ConfigError: a model cannot be loaded.
        ServiceRefused: a service accepts no requests.
        CaptionError: every song failed.
        DiskFull, JobCancelled.
    """
    if context.launch.launcher:
        config = config.model_copy(update={"device": choose_launched_device(config.device, context.launch).value})
    processes = ProcessGroup.connect(context.launch)
    with processes.fail_together():
        if processes.is_main:
            return _caption(config, context, processes)
        _label_share(config, context, processes)
        return {}


def _caption(config: CaptionJob, context: Context, processes: ProcessGroup) -> dict[str, Any]:
    plan = make_plan(config)
    steps = list_steps(plan, config)
    progress = CaptionProgress(config, context, len(steps), TimeEstimate(steps))
    open_songs = [song for song in plan.songs if song.is_open]
    context.emit(Started(job="caption", total=progress.total, unit=progress_unit(plan)))
    if context.parent is None:  # in a worker, the main job reports
        _finish_interrupted_writes(plan, config)
        report_plan(progress, plan)
    if config.devices > 1 and open_songs:
        _run_on_devices(progress, open_songs)
    elif processes.world_size > 1:
        _run_in_processes(progress, open_songs, processes)
    else:
        _label(progress, plan)
    if (
        context.parent is None
        and progress.failed
        and not any(progress.counts.values())
        and len(open_songs) == len(plan.songs)
    ):
        name, reason = next(iter(progress.failed.items()))
        raise CaptionError(f"every song failed; {name}: {reason}")
    table = write_table(config) if config.csv else None
    if table:
        context.emit(Saved(path=str(table), role="labels"))
    return {
        "songs": len(plan.songs),
        "skipped": len(plan.songs) - len(open_songs),
        **progress.counts,
        "failed": progress.failed,
        "disagreements": progress.disagreements,
        "csv": str(table) if table else None,
    }


def _label(progress: CaptionProgress, plan: LabelingPlan) -> None:
    """Label the songs of ``plan`` in this process."""
    with use_device(_device(plan, progress.config), "captioning", progress.context):
        _describe_all(progress, plan.to_describe)
        _transcribe_all(progress, plan.to_transcribe)


def _run_in_processes(progress: CaptionProgress, songs: list[SongPlan], processes: ProcessGroup) -> None:
    """Label every n-th song here and the others in the other processes of a launcher; wait for them."""
    note = f"{processes.world_size} processes share {len(songs)} songs; the progress is that of the first process"
    progress.context.emit(LogMessage(message=note))
    names = [song.name for song in songs]
    for rank, share in enumerate(_label_share(progress.config, progress.context, processes, names)):
        progress.counts = {name: count + share.counts.get(name, 0) for name, count in progress.counts.items()}
        progress.disagreements |= share.disagreements
        for name, message in share.failed.items():
            if rank == 0:  # reported there
                progress.failed[name] = message
            else:
                progress.fail(name, message, "See the log of its process in workers/ of the job folder.")


def _label_share(
    config: CaptionJob, context: Context, processes: ProcessGroup, songs: list[str] | None = None
) -> list[LabeledShare]:
    """Label every n-th of the ``songs`` that rank 0 gives. Returns the results of all processes, by rank."""
    names: Any = processes.all_gather(songs)[0]
    own = names[processes.rank :: processes.world_size]
    if not own:
        return processes.all_gather(LabeledShare())
    config = config.model_copy(update={"only": own, "csv": None})
    plan = make_plan(config)
    steps = list_steps(plan, config)
    progress = CaptionProgress(config, context, len(steps), TimeEstimate(steps))
    _label(progress, plan)
    return processes.all_gather(LabeledShare(progress.counts, progress.failed, progress.disagreements))


def _finish_interrupted_writes(plan: LabelingPlan, config: CaptionJob) -> None:
    """Remove the temporary files beside the songs that a killed job left, and write the text files that it did not."""
    for folder in {Path(song.sample.audio_path).parent for song in plan.songs}:
        with storage_errors(folder):
            remove_temporary_files(folder)
    if config.write_texts:
        for song in plan.songs:
            complete_texts(song.known)


def _device(plan: LabelingPlan, config: CaptionJob) -> str:
    """The device of local models; the CPU if none is needed. Raises ConfigError."""
    captions = any(song.describe for song in plan.to_describe) and not CAPTIONERS[config.captioner].is_online
    lyrics = bool(plan.to_transcribe) and not TRANSCRIBERS[config.transcriber].is_online
    return choose_device(config.device).value if captions or lyrics else "cpu"


def _run_on_devices(progress: CaptionProgress, songs: list[SongPlan]) -> None:
    """Label the songs with one process per device."""

    def forward(event: Event) -> None:
        if isinstance(event, ItemFailed):
            progress.failed[event.item] = event.message
        progress.context.emit(event)

    merged = MergedEvents(forward, progress.total)
    for result in caption_on_devices(progress.config, [song.name for song in songs], progress.context.folder, merged):
        progress.counts = {name: count + result[name] for name, count in progress.counts.items()}
        progress.disagreements |= result["disagreements"]


def _describe_all(progress: CaptionProgress, songs: list[SongPlan]) -> None:
    """Pass 1: caption, genre, tempo, key and meter; also lyrics if the captioner returns both."""
    captioner: Captioner | None = None
    try:
        if any(song.describe for song in songs):
            captioner = CAPTIONERS[progress.config.captioner].load()(progress.config, progress.context.emit)
        needs_audio = captioner is not None and captioner.needs_audio
        with_flags = [(song, song.measure or (needs_audio and song.describe)) for song in songs]
        _for_each(progress, with_flags, describe_step, lambda plan, song: _describe(progress, captioner, plan, song))
    finally:
        if captioner is not None:
            captioner.close()


def _transcribe_all(progress: CaptionProgress, songs: list[SongPlan]) -> None:
    """Pass 2: lyrics of the songs that still have none."""
    if not songs:
        return
    transcriber: Transcriber = TRANSCRIBERS[progress.config.transcriber].load()(progress.config, progress.context.emit)
    try:
        with_flags = [(song, transcriber.needs_audio) for song in songs]
        _for_each(
            progress, with_flags, transcribe_step, lambda plan, song: _transcribe(progress, transcriber, plan, song)
        )
    finally:
        transcriber.close()


def _for_each(
    progress: CaptionProgress,
    songs: list[tuple[SongPlan, bool]],
    step: Callable[[SongPlan, CaptionJob], LabelingStep],
    label_song: LabelSong,
) -> None:
    """Label songs in sequence. Errors of one song become events here."""
    for plan, audio in decode_ahead(songs):
        progress.context.stop_if_cancelled()
        started_s = time.monotonic()
        note = "skipped"
        try:
            note = label_song(plan, SongAudio(plan.known.audio, audio.result()))
        except (JobCancelled, ServiceRefused, DiskFull):
            raise
        except AceStepError as error:
            progress.fail(plan.name, str(error), error.hint)
        except Exception as error:  # noqa: BLE001 - one song must not end the job
            logger.exception("{} failed", plan.name)
            progress.fail(plan.name, str(error) or type(error).__name__, "This is a bug; details are in the log.")
        progress.finish(step(plan, progress.config), time.monotonic() - started_s, f"{plan.name}: {note}")


def _describe(progress: CaptionProgress, captioner: Captioner | None, plan: SongPlan, song: SongAudio) -> str:
    """Measure and describe one song and save its labels. Returns a note for the progress."""
    found: dict[str, Any] = {}
    if plan.measure and song.audio is not None:
        found["measured"] = measured_as_json(analyse(song.audio, SAMPLE_RATE_HZ))
        progress.counts["measured"] += 1
    if captioner is None or not plan.describe:
        _save_description(progress, plan, {}, found)
        return ", ".join(str(plan.known.values.get(name, "?")) for name in METADATA)
    with_lyrics = plan.lyrics_with_caption
    try:
        answer = captioner.describe(song, with_lyrics=with_lyrics, stop=lambda: progress.context.cancelled)
        if not answer.caption.strip():
            raise CaptionError(f"{captioner.name} returned no caption for {plan.name}", hint="Try again.")
    except CaptionError:
        if found:
            _save_description(progress, plan, {}, found)
        raise
    labels: dict[str, tuple[Any, str]] = {"caption": (answer.caption.strip(), captioner.name)}
    if answer.genre:
        labels["genre"] = (answer.genre, captioner.name)
    if with_lyrics and answer.lyrics is not None:
        labels |= lyric_labels(answer.lyrics.text, answer.lyrics.language, captioner.name)
    written = _save_description(progress, plan, labels, {**found, "answered": answered_as_json(answer, captioner.name)})
    progress.counts["described"] += "caption" in written
    if with_lyrics and answer.lyrics is not None:
        progress.counts["transcribed"] += "lyrics" in written
        plan.transcribe = False
    line = " ".join(answer.caption.split()) if "caption" in written else _KEPT
    return line if len(line) <= _MAX_NOTE_CHARS else f"{line[: _MAX_NOTE_CHARS - 1]}\u2026"


def _save_description(
    progress: CaptionProgress, plan: SongPlan, labels: dict[str, tuple[Any, str]], found: dict[str, Any]
) -> set[str]:
    """Save labels, with tempo, key and meter chosen between measurement and model, including earlier results.

    Returns:
        The names of the labels that were written.
    """
    sides = [found.get(name) or as_dict(plan.known.extra.get(name)) for name in ("measured", "answered")]
    verdict = weigh(*sides, prefer=progress.config.prefer)
    if verdict.disagreements:
        progress.disagreements[plan.name] = verdict.disagreements
    return _save(progress, plan, {**verdict.labels, **labels}, {**found, "disagreements": verdict.disagreements})


def _transcribe(progress: CaptionProgress, transcriber: Transcriber, plan: SongPlan, song: SongAudio) -> str:
    """Transcribe one song and save its lyrics. Returns a note for the progress."""
    lyrics = transcriber.transcribe(song, stop=lambda: progress.context.cancelled)
    if not lyrics.complete:
        message = f"{plan.name}: the lyrics may be truncated; increase Lyrics tokens"
        progress.context.emit(LogMessage(message=message, warning=True))
    written = _save(progress, plan, lyric_labels(lyrics.text, lyrics.language, transcriber.name), {})
    if "lyrics" not in written:
        return _KEPT
    progress.counts["transcribed"] += 1
    return "instrumental" if lyrics.is_instrumental else f"{lyrics.text.count(chr(10)) + 1} lines, {lyrics.language}"


def _save(
    progress: CaptionProgress, plan: SongPlan, labels: dict[str, tuple[Any, str]], extra: dict[str, Any]
) -> set[str]:
    """Write the labels that may be written. Returns their names.

    Labels that a person edited are kept. With ``existing="replace"``, only those edited since the job started are kept.
    """
    config = progress.config
    extra = {"duration": plan.sample.duration, **extra}
    if config.custom_tag.strip():
        extra["custom_tag"] = config.custom_tag.strip()
    with locked_labels(plan.sample) as known:
        edited = known.edited_since(plan.known)
        allowed = {
            name: value
            for name, value in labels.items()
            if name not in edited and known.may_write(name, config.existing)
        }
        replaces_edited = bool(known.locked & set(allowed))
        path = write_labels(known, allowed, extra=extra, texts=config.write_texts, backup=replaces_edited)
    plan.known.record_written(allowed, known.extra)
    progress.context.emit(Saved(path=str(path), role="labels"))
    return set(allowed)
