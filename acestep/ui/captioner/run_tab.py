"""3. Run: the planned work and its cost, start and stop, and the results song by song."""

from __future__ import annotations

from typing import Any

import gradio as gr

from acestep.captioning.backends import online_services
from acestep.captioning.configs import CaptionJob
from acestep.captioning.costs import cost_notes
from acestep.captioning.labeling_plan import make_plan
from acestep.captioning.time_estimate import backends_without_typical_time, list_steps
from acestep.core.errors import AceStepError, ConfigError
from acestep.ui import html
from acestep.ui.captioner.app_state import FOLDER, AppState
from acestep.ui.captioner.audio_folder import SongEntry
from acestep.ui.captioner.engine_tab import host_of, option_names
from acestep.ui.captioner.page_context import CaptionerContext, paragraph
from acestep.ui.errors import describe_error
from acestep.ui.form import Data, Form
from acestep.ui.job_controls import JobControls, StartVariant
from acestep.ui.page_context import Prerequisite
from acestep.ui.progress import JobPanel

_HEADERS = ["Song", "Status", "Caption", "BPM", "Key", "Lyrics", "From", "To check"]
_CAPTION_CHARS = 80
_NO_FOLDER = "No folder is selected yet. Enter the folder of your songs and scan it."


class RunTab:
    """Components and listeners."""

    def __init__(self, page: CaptionerContext, form: Form[CaptionJob]) -> None:
        self._app, self._form = page.app, form
        page.require("cp-run", lambda: None if self._app.settings.text(FOLDER) else Prerequisite(_NO_FOLDER, "songs"))
        plan = gr.HTML(elem_id="cp-plan")
        gpu = gr.HTML(elem_id="cp-gpu-memory")
        variants = (
            StartVariant("Transcribe Lyrics Only", "cp-lyrics"),
            StartVariant("Retry failed", "cp-retry", lambda: bool(self._app.failed())),
        )
        watch = self._app.watch
        controls = JobControls(page, watch, "cp", "Start Captioning", "Stop after this song", variants=variants)
        buttons = (controls.start, *controls.variants)
        JobPanel(
            page.live,
            self._app.watch,
            "cp-job",
            nothing_yet="Finished songs are saved at once. A stopped run resumes with the remaining songs.",
            result=_result,
        )
        table = gr.HTML(elem_id="cp-table", css_template="td:nth-child(3), td:nth-child(8) { min-width: 200px; }")
        for button, listener in zip(buttons, (self._start, self._start_lyrics, self._retry), strict=True):
            page.on(button.click, listener, form.inputs, check=form.check)
        page.live.add([table], self._app.version, self._render)
        page.live.add([plan], self._settings_version, self._render_plan)
        page.live.add([gpu], self._app.gpu_status.describe, lambda: [paragraph(self._app.gpu_status.describe())])

    def _start(self, data: Data) -> None:
        self._app.start(self._read(data))

    def _start_lyrics(self, data: Data) -> None:
        config = self._read(data)
        if config.transcriber == "none":
            raise ConfigError(["no transcriber is selected"], hint="Select one in 2. Engine.")
        config.captioner, config.measure = "none", False
        self._app.start(config)

    def _retry(self, data: Data) -> None:
        config = self._read(data)
        config.only = self._app.failed()
        if not config.only:
            raise ConfigError(["no failed song to retry"], hint="Use Start Captioning for the remaining songs.")
        self._app.start(config)

    def _read(self, data: Data) -> CaptionJob:
        return self._form.read(data, audio_dir=self._app.ready())

    def _settings_version(self) -> object:
        get = self._app.settings.get
        names = ("captioner", "transcriber", "measure", "existing", *option_names())
        return (self._app.version(), *(get(self._form.key(name)) for name in names))

    def _render_plan(self) -> list[Any]:
        if self._app.active:
            return [gr.skip()]
        return [plan_of(self._app)]

    def _render(self) -> list[Any]:
        _, view = self._app.watch.read()
        failed = {item.item for item in view.skipped}
        rows = [_row(entry, entry.name in failed) for entry in self._app.folder.entries]
        return [html.table(_HEADERS, rows, "Songs and their labels") if rows else ""]


def plan_of(app: AppState) -> str:
    """The work of a start: number of songs, time, cost, and the services that receive audio."""
    if not app.settings.text(FOLDER):
        return ""
    try:
        config = app.config()
        plan = make_plan(config)
    except AceStepError as error:
        return html.notice(describe_error(error), tone="warn")
    work = [song for song in plan.songs if song.is_open]
    if not work:
        return html.notice("All songs have the selected labels.", ["2. Engine can replace existing labels."], "good")
    seconds = sum(step.expected_s for step in list_steps(plan, config))
    lines = [f"Estimated time: {html.approximate_time(seconds)}, much longer without a GPU."]
    services = online_services()
    chosen = {config.captioner, config.transcriber} & {*services}
    if chosen == {config.captioner, config.transcriber} - {"none"}:
        lines = [f"Estimated time: {html.approximate_time(seconds)}."]
    unknown = backends_without_typical_time(config)
    lines += [f"{backend.label}: speed unknown, the time above is a guess." for backend in unknown]
    lines += cost_notes(plan, config)
    lines += [f"{services[n].service}: audio is sent to {host_of(config, services[n])}." for n in sorted(chosen)]
    title = f"{len(work)} of {html.count(len(plan.songs), 'song')} to do"
    return html.notice(title, lines, "warn" if chosen else "plain")


def _result(result: dict[str, Any]) -> str:
    """The result of a finished job."""
    done = [f"{result.get(key, 0)} {key}" for key in ("described", "measured", "transcribed")]
    lines = [", ".join(done) + "."]
    if result.get("skipped"):
        lines.append(f"{html.count(result['skipped'], 'song')} already had all labels.")
    if result.get("disagreements"):
        lines.append(
            f"Model and measurement disagree for {html.count(len(result['disagreements']), 'song')}; see below."
        )
    if result.get("csv"):
        lines.append(f"Table: {result['csv']}")
    lines.append("Next: check the labels in 4. Review, then scan this folder in 2. Dataset of the trainer.")
    return html.notice(f"{html.count(result.get('songs', 0), 'song')} ready", lines, "good")


def _row(entry: SongEntry, failed: bool) -> list[object]:
    song = entry.sample
    return [
        entry.name,
        status_of(entry, failed),
        html.shorten(song.caption, _CAPTION_CHARS),
        song.bpm or "",
        song.keyscale,
        entry.lyrics,
        ", ".join(entry.origins),
        "; ".join(entry.doubts),
    ]


def status_of(entry: SongEntry, failed: bool) -> str:
    """The status of a song in one word."""
    if failed:
        return "failed"
    if entry.known is not None and entry.known.locked:
        return "edited"
    return "captioned" if entry.sample.has_caption else "waiting"
