"""Compare checkpoints: audio previews and generations of a run, at equal loudness, optionally blind."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from acestep.core.errors import AceStepError, AdapterError
from acestep.core.runs import read_run
from acestep.ui import html
from acestep.ui.errors import notify
from acestep.ui.trainer.audio_clips import Clip, generations_of, newest, previews_of, request_label, requests, strengths
from acestep.ui.trainer.audio_grid import GridRow, make_grid, render_grid
from acestep.ui.trainer.page_context import TrainerContext

_MOST_ROWS, _MOST_COLUMNS = 12, 3
_EMPTY = (
    "The checkpoints of a run are compared here. Enable audio previews under Sample Inference in 4. Train, or "
    "generate with several checkpoints below."
)


class ComparePanel:
    """Components and listeners."""

    def __init__(self, page: TrainerContext) -> None:
        self._page, self._app = page, page.app
        self._opened = False  # loudness is measured only once the tab has been opened
        with gr.Row(elem_classes="ac-grid", visible=False) as self._choices:
            self._run = gr.Dropdown([], label="Run", info="The run whose audio is compared.", elem_id="tr-compare-run")
            self._strength = gr.Dropdown(
                [], label="Strength", info="Of the adapters.", elem_id="tr-compare-strength", allow_custom_value=False
            )
            self._matched = gr.Checkbox(
                True, label="Match loudness", info="Play all at the same loudness.", elem_id="tr-compare-matched"
            )
            self._blind = gr.Checkbox(
                False, label="Blind", info="Hide the checkpoints until you have picked one.", elem_id="tr-compare-blind"
            )
        self._grid = make_grid("tr-compare-grid")
        with gr.Row(elem_classes="ac-prerequisite", visible=False) as self._picked_row:
            self._picked = gr.HTML(elem_id="tr-compare-picked")
            export = gr.Button("Export", size="sm", scale=0, elem_id="tr-compare-export")
        page.saved_fields.add("compare.matched", self._matched)
        self._wire(export)

    def _wire(self, export: gr.Button) -> None:
        page = self._page
        page.on(self._run.input, self._choose_run, [self._run])
        page.on(self._strength.input, self._choose_strength, [self._strength])
        page.on(self._matched.input, self._match, [self._matched])
        page.on(self._blind.input, self._hide, [self._blind])
        page.on(self._grid.pick, self._pick, [])
        page.on(export.click, self._export, [], [page.tabs])
        page.on(page.tab.select, self._open)
        outputs = [self._choices, self._run, self._strength, self._blind, self._grid, self._picked_row, self._picked]
        page.live.add(outputs, self._version, self._render)

    @property
    def run(self) -> Path | None:
        """The selected run, as long as it exists, or else the newest one."""
        runs = self._app.run_folders()
        chosen = self._app.settings.text("compare.run")
        return next((run for run in runs if str(run) == chosen), runs[0] if runs else None)

    def _open(self) -> None:
        self._opened = True

    def _version(self) -> object:
        if not self._opened:
            return None
        settings, watches = self._app.settings, self._app.watches
        _, training = watches["train"].read()
        made = sum(saved.role == "sample" for saved in training.saved), watches["compare"].read()[1].done
        chosen = [settings.get(f"compare.{name}") for name in ("strength", "matched", "shuffled", "picked")]
        states = tuple(watches[name].read()[0] for name in ("train", "generate", "compare"))
        return self.run, len(self._app.run_folders()), made, states, str(chosen)

    def _render(self) -> Sequence[Any]:
        if not self._opened:
            return [gr.skip()] * 7
        run = self.run
        sounds = clips_of(self._app.generations_folder, run) if run else []
        runs = [(folder.name, str(folder)) for folder in self._app.run_folders()]
        known = strengths(sounds)
        strength, shuffled = self._strength_of(known), self._app.settings.get("compare.shuffled")
        shown = [sound for sound in sounds if sound.strength in (0.0, strength)]
        rows = self._rows(shown)
        picked = self._picked_words(rows)
        return [
            gr.update(visible=bool(runs)),
            gr.update(choices=runs, value=str(run) if run else None),
            gr.update(choices=[(f"{each:g}", each) for each in known], value=strength if known else None),
            gr.update(value=shuffled is not None),
            self._table(rows, shown) if rows else html.notice("Nothing to compare yet", [_EMPTY]),
            gr.update(visible=bool(picked)),
            picked,
        ]

    def _strength_of(self, known: list[float]) -> float:
        """The selected strength if there is audio for it, else the one closest to 1."""
        chosen = self._app.settings.get("compare.strength")
        return chosen if chosen in known else min(known, key=lambda each: abs(each - 1.0), default=1.0)

    def _rows(self, shown: list[Clip]) -> list[tuple[str, Clip]]:
        """The name and one clip of each source; while blind, letters in random order."""
        sources = {sound.source: sound for sound in sorted(shown, key=lambda sound: (sound.order, sound.created_s))}
        rows = list(sources.items())
        rows = [*rows[:1], *rows[1:][-(_MOST_ROWS - 1) :]]
        shuffled = self._app.settings.get("compare.shuffled")
        if shuffled is None:
            return rows
        random.Random(shuffled).shuffle(rows)
        return [(f"Version {chr(ord('A') + place)}", sound) for place, (_, sound) in enumerate(rows)]

    def _table(self, rows: list[tuple[str, Clip]], shown: list[Clip]) -> str:
        columns = requests(shown)[:_MOST_COLUMNS]
        lines = []
        for name, sound in rows:
            found = [newest(shown, sound.source, request) for request in columns]
            lines.append(GridRow(name, name, [each.path if each else None for each in found]))
        matched = bool(self._app.settings.get("compare.matched", True))
        return render_grid(
            [request_label(request) for request in columns], lines, matched=matched, picked=self._name_of_pick(rows)
        )

    def _name_of_pick(self, rows: list[tuple[str, Clip]]) -> str:
        picked = self._app.settings.get("compare.picked")
        return next((name for name, sound in rows if [str(self.run), sound.source] == picked), "")

    def _picked_words(self, rows: list[tuple[str, Clip]]) -> str:
        name = self._name_of_pick(rows)
        sound = next((sound for each, sound in rows if each == name), None)
        if sound is None or self._app.settings.get("compare.shuffled") is not None:
            return ""
        letter = self._app.settings.text("compare.letter")
        was = f"{letter} was {sound.source}" if letter else f"Picked: {sound.source}"
        return html.notice(f"{was}", tone="good")

    def _choose_run(self, run: str | None) -> None:
        self._app.settings.put({"compare.run": run or "", "compare.picked": None, "compare.letter": ""})

    def _choose_strength(self, strength: float) -> None:
        self._app.settings.put({"compare.strength": strength})

    def _match(self, wanted: bool) -> None:
        self._app.settings.put({"compare.matched": wanted})

    def _hide(self, wanted: bool) -> None:
        forgotten = {"compare.picked": None, "compare.letter": ""} if wanted else {}
        self._app.settings.put({"compare.shuffled": time.time_ns() if wanted else None, **forgotten})

    def _pick(self, event: gr.EventData) -> None:
        """Remember the pick, and end the blind comparison."""
        run, name = self.run, str(event.value)
        sounds = clips_of(self._app.generations_folder, run) if run else []
        strength = self._strength_of(strengths(sounds))
        rows = self._rows([sound for sound in sounds if sound.strength in (0.0, strength)])
        source = next((sound.source for each, sound in rows if each == name), None)
        if source is None:
            return
        letter = name if self._app.settings.get("compare.shuffled") is not None else ""
        settings = {"compare.picked": [str(run), source], "compare.letter": letter, "compare.shuffled": None}
        self._app.settings.put(settings)

    def _export(self) -> Any:
        """Select 6. Export & Merge with the picked adapter."""
        run, picked = self.run, self._app.settings.get("compare.picked") or []
        sounds = clips_of(self._app.generations_folder, run) if run else []
        found = [sound.adapter for sound in sounds if [str(run), sound.source] == picked and sound.adapter]
        if not found:
            raise AdapterError("no adapter was saved for this pick", hint="Pick a saved checkpoint.")
        self._app.settings.push({"export.adapter": str(found[0])})
        notify("Selected in 6. Export & Merge.")
        return gr.Tabs(selected="export")


def clips_of(pieces: Path, run: Path) -> list[Clip]:
    """All clips of a run."""
    try:
        checkpoint = str(read_run(run).config.get("checkpoint", ""))
    except AceStepError:
        return []
    return [*previews_of(run), *generations_of(pieces, run, checkpoint)]
