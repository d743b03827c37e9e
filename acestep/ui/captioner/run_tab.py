"""3. Run: what is ahead and what it costs, start and stop, and the songs as they are done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from acestep.captioning.backends import online_services
from acestep.captioning.configs import CaptionJob
from acestep.captioning.costs import cost_notes
from acestep.captioning.labeling_plan import make_plan
from acestep.captioning.pace import backends_of_unknown_pace, steps_of
from acestep.core.errors import AceStepError, ConfigError
from acestep.ui import html
from acestep.ui.captioner.app_state import FOLDER, AppState
from acestep.ui.captioner.audio_folder import Entry
from acestep.ui.captioner.engine_tab import host_of, option_names
from acestep.ui.captioner.page_context import CaptionerContext, actions, phrase
from acestep.ui.errors import describe_error, warn
from acestep.ui.form import Form
from acestep.ui.page_context import Prerequisite
from acestep.ui.progress import JobPanel
from acestep.ui.watch import ACTIVE

_HEADERS = ["Song", "Status", "Caption", "BPM", "Key", "Lyrics", "From", "To check"]
_CAPTION_CHARS = 80
_NO_FOLDER = "No folder is chosen yet. Choose the one that holds your songs and scan it."


class RunTab:
    """Widgets and what they do."""

    def __init__(self, page: CaptionerContext, form: Form[CaptionJob]) -> None:
        self._app, self._form = page.app, form
        page.require("cp-run", lambda: None if self._app.settings.text(FOLDER) else Prerequisite(_NO_FOLDER, "songs"))
        ahead = gr.HTML(elem_id="cp-ahead")
        card = gr.HTML(elem_id="cp-card")
        with actions():
            start = gr.Button("Start Captioning", variant="primary", elem_id="cp-start")
            lyrics = gr.Button("Transcribe Lyrics Only", elem_id="cp-lyrics")
            again = gr.Button("Try failed again", elem_id="cp-again", interactive=False)
            stop = gr.Button("Stop after this song", variant="stop", elem_id="cp-stop", interactive=False)
        JobPanel(
            page.live,
            self._app.watch,
            "cp-job",
            nothing_yet="The folder keeps what is finished: a run that was stopped goes on with what is missing.",
            result=_result,
        )
        table = gr.HTML(elem_id="cp-table", css_template="td:nth-child(3), td:nth-child(8) { min-width: 200px; }")
        for button, handler in ((start, self._start), (lyrics, self._lyrics_only), (again, self._again)):
            page.on(button.click, handler, form.widgets, check=form.check)
        page.on(stop.click, self._stop, quiet=True)
        page.live.show([start, lyrics, again, stop, table], self._app.version, self._render)
        page.live.show([ahead], self._settings_version, self._render_plan)
        page.live.show([card], self._app.card.words, lambda: [phrase(self._app.card.words())])

    def _start(self, *values: Any) -> None:
        self._app.start(self._read(values))

    def _lyrics_only(self, *values: Any) -> None:
        config = self._read(values)
        if config.transcriber == "none":
            raise ConfigError(["no transcriber is chosen"], hint="Choose one in 2. Engine.")
        config.captioner, config.measure = "none", False
        self._app.start(config)

    def _again(self, *values: Any) -> None:
        config = self._read(values)
        config.only = self._app.failed()
        if not config.only:
            raise ConfigError(["no song failed that could be tried again"], hint="Start Captioning does what is open.")
        self._app.start(config)

    def _stop(self) -> None:
        if not self._app.stop():
            warn("Nothing is running.")

    def _read(self, values: Sequence[Any]) -> CaptionJob:
        return self._form.read(values, audio_dir=self._app.ready())

    def _settings_version(self) -> object:
        get = self._app.settings.get
        names = ("captioner", "transcriber", "measure", "existing", *option_names())
        return (self._app.version(), *(get(self._form.key(name)) for name in names))

    def _render_plan(self) -> list[Any]:
        if self._app.active:
            return [gr.skip()]
        return [ahead_of(self._app)]

    def _render(self) -> list[Any]:
        state, account = self._app.watch.look()
        active = state in ACTIVE
        failed = {item.item for item in account.left_out}
        rows = [_row(entry, entry.name in failed) for entry in self._app.songs.entries]
        return [
            gr.update(interactive=not active),
            gr.update(interactive=not active),
            gr.update(interactive=bool(self._app.failed()) and not active),
            gr.update(interactive=state in ("running", "paused")),
            html.table(_HEADERS, rows, "Songs and their labels") if rows else "",
        ]


def ahead_of(app: AppState) -> str:
    """What a start would do now: how many songs, for how long, at what cost, and who hears them."""
    if not app.settings.text(FOLDER):
        return ""
    try:
        config = app.config()
        plan = make_plan(config)
    except AceStepError as error:
        return html.notice(describe_error(error), tone="warn")
    work = [song for song in plan.songs if song.is_open]
    if not work:
        return html.notice("All songs have what is asked for.", ["Choose in 2. Engine to redo existing texts."], "good")
    seconds = sum(step.expected_s for step in steps_of(plan, config))
    lines = [f"Roughly {html.approximate_time(seconds)} in all; a computer without a graphics card needs much longer."]
    services = online_services()
    chosen = {config.captioner, config.transcriber} & {*services}
    if chosen == {config.captioner, config.transcriber} - {"none"}:
        lines = [f"Roughly {html.approximate_time(seconds)} in all."]
    lines += [
        f"{backend.label}: speed unknown, the time above is a guess." for backend in backends_of_unknown_pace(config)
    ]
    lines += cost_notes(plan, config)
    lines += [f"{services[n].service}: the songs are sent to {host_of(config, services[n])}." for n in sorted(chosen)]
    title = f"{len(work)} of {html.count(len(plan.songs), 'song')} to do"
    return html.notice(title, lines, "warn" if chosen else "plain")


def _result(result: dict[str, Any]) -> str:
    """What a finished job gave back."""
    done = [f"{result.get(key, 0)} {key}" for key in ("described", "measured", "transcribed")]
    lines = [", ".join(done) + "."]
    if result.get("skipped"):
        lines.append(f"{html.count(result['skipped'], 'song')} had everything and was left as it is.")
    if result.get("disagreements"):
        lines.append(f"Model and measurement differ for {html.count(len(result['disagreements']), 'song')}: see below.")
    if result.get("csv"):
        lines.append(f"Table: {result['csv']}")
    lines.append("Next: look at them in 4. Review. Then scan this folder in the trainer, 2. Dataset.")
    return html.notice(f"{html.count(result.get('songs', 0), 'song')} ready", lines, "good")


def _row(entry: Entry, failed: bool) -> list[object]:
    song = entry.sample
    caption = " ".join(song.caption.split())
    return [
        entry.name,
        status_of(entry, failed),
        caption if len(caption) <= _CAPTION_CHARS else f"{caption[:_CAPTION_CHARS]}...",
        song.bpm or "",
        song.keyscale,
        entry.lyrics,
        ", ".join(entry.origins),
        "; ".join(entry.doubts),
    ]


def status_of(entry: Entry, failed: bool) -> str:
    """In a word: where a song stands."""
    if failed:
        return "failed"
    if entry.known is not None and entry.known.locked:
        return "edited"
    return "captioned" if entry.sample.has_caption else "waiting"
