"""The API of a running captioner: typed functions with JSON in and out.

They work on the same state as the page; errors are returned as ``{"error": {"code", "message", "hint"}}``.
"""

from __future__ import annotations

from typing import Any

from gradio.events import api

from acestep.captioning.configs import CaptionJob
from acestep.core.config import parse
from acestep.core.events import Failed, Finished
from acestep.ui.captioner.app_state import AppState
from acestep.ui.captioner.run_tab import status_of
from acestep.ui.errors import json_errors
from acestep.ui.job_controls import request_stop


class Api:
    """The functions, on the state of the page."""

    def __init__(self, app: AppState) -> None:
        self._app = app

    def publish(self) -> None:
        """Add all functions to the current Gradio app, each under its own name."""
        quick = (self.status, self.stop)
        for function in (*quick, self.scan, self.start_captioning, self.results, self.save_caption):
            api(json_errors(function), api_name=function.__name__, queue=function not in quick)

    def status(self) -> dict[str, Any]:
        """The status of the latest run in the scanned folder, with its result or its error."""
        state, view = self._app.watch.read()
        last = view.last
        return {
            "state": state,
            "done": view.done,
            "total": view.total,
            "now": view.phase,
            "seconds_left": view.seconds_left,
            "failed": {item.item: item.message for item in view.skipped},
            "result": last.result if isinstance(last, Finished) else None,
            "failure": {"message": last.message, "hint": last.hint} if isinstance(last, Failed) else None,
        }

    def scan(self, folder: str) -> dict[str, Any]:
        """Open a folder of songs, also on the page; returns the labels of its songs."""
        self._app.open(folder)
        self._app.settings.push({})
        return self.results()

    def start_captioning(self, config: dict[str, Any]) -> dict[str, Any]:
        """Start captioning the scanned folder. ``config`` has the option names of the command line; missing ones are
        as set on the page. API keys come from the environment or the page only."""
        settings = self._app.config_for(self._app.ready()).model_dump()
        self._app.start(parse(CaptionJob, {**settings, **config, "audio_dir": settings["audio_dir"]}))
        return self.status()

    def stop(self) -> dict[str, Any]:
        """Ask the run to stop after the current song."""
        return {"asked": request_stop(self._app.watch)}

    def results(self) -> dict[str, Any]:
        """The songs of the scanned folder with their labels, the sources of the labels, and what to check."""
        self._app.version()
        failed = set(self._app.failed())
        songs = [
            {
                **entry.sample.model_dump(mode="json"),
                "name": entry.name,
                "status": status_of(entry, entry.name in failed),
                "doubts": entry.doubts,
            }
            for entry in self._app.folder.entries
        ]
        return {"folder": str(self._app.folder.root or ""), "songs": songs}

    def save_caption(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Save edited labels of one song of the scanned folder. They are locked, also for a running job."""
        self._app.folder.edit(name, fields)
        return self._app.folder.find(name).sample.model_dump(mode="json")
