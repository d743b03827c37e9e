"""What other programs may ask of a running captioner: typed functions with plain JSON in and out.

They do what the page does, on the same desk; problems come back as ``{"error": {"code", "message", "hint"}}``.
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


class Api:
    """The functions, over one desk."""

    def __init__(self, app: AppState) -> None:
        self._app = app

    def publish(self) -> None:
        """Offer all functions in the present gradio context, each under its own name."""
        quick = (self.status, self.stop)
        for function in (*quick, self.scan, self.start_captioning, self.results, self.save_caption):
            api(json_errors(function), api_name=function.__name__, queue=function not in quick)

    def status(self) -> dict[str, Any]:
        """How the newest run in the scanned folder stands, with its result or its error."""
        state, account = self._app.watch.look()
        last = account.last
        return {
            "state": state,
            "done": account.done,
            "total": account.total,
            "now": account.phase,
            "seconds_left": account.seconds_left,
            "failed": {item.item: item.message for item in account.left_out},
            "result": last.result if isinstance(last, Finished) else None,
            "failure": {"message": last.message, "hint": last.hint} if isinstance(last, Failed) else None,
        }

    def scan(self, folder: str) -> dict[str, Any]:
        """Open a folder of songs, on the page too; gives what its songs have."""
        self._app.open(folder)
        self._app.settings.push({})
        return self.results()

    def start_captioning(self, config: dict[str, Any]) -> dict[str, Any]:
        """Begin to caption the scanned folder. ``config`` has the names of the command line; unnamed ones are as set
        on the page. Keys of services come from the environment or the page, never through here."""
        settings = self._app.config_for(self._app.ready()).model_dump()
        self._app.start(parse(CaptionJob, {**settings, **config, "audio_dir": settings["audio_dir"]}))
        return self.status()

    def stop(self) -> dict[str, Any]:
        """Ask the run to end after the song at hand."""
        return {"asked": self._app.stop()}

    def results(self) -> dict[str, Any]:
        """The songs of the scanned folder with their labels, who wrote them, and what is doubtful."""
        self._app.version()
        failed = set(self._app.failed())
        songs = [
            {
                **entry.sample.model_dump(mode="json"),
                "name": entry.name,
                "status": status_of(entry, entry.name in failed),
                "doubts": entry.doubts,
            }
            for entry in self._app.songs.entries
        ]
        return {"folder": str(self._app.songs.root or ""), "songs": songs}

    def save_caption(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        """Save labels that a person wrote for one song of the scanned folder; they are locked from then on, also for
        a run that goes on."""
        self._app.songs.edit(name, fields)
        return self._app.songs.find(name).sample.model_dump(mode="json")
