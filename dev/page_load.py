"""Does watching slow a training down? Two pages and 18 programs that ask, against nobody, in turns within one run.

    python -m dev.page_load --minutes 5

A training of the tiny model goes all the while. Phases with watchers and without take turns, so that whatever else
the computer does falls on both. Printed is how many steps a second each kind of phase had, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from gradio_client import Client
from playwright.sync_api import Browser

from acestep.core.event_log import EventLog
from acestep.core.events import StepLogged
from acestep.models.tiny import create_tiny_checkpoint
from tests.songs import write_song
from tests.ui.drive import Site, chromium, serve, tab, visit

PAGES, POLLERS = 2, 18
ASK_EVERY_S = 2.0
PHASE_S = 15.0
SETTLE_S = 3.0  # at the start of a phase, which do not count


@dataclass
class Pollers:
    """Programs that ask how the run stands: half of them by /health and plain HTTP, half as gradio_client does."""

    site: Site
    run: str
    answers: int = 0
    failures: list[str] = field(default_factory=list)

    @contextmanager
    def asking(self) -> Iterator[None]:
        over = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(number, over)) for number in range(POLLERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()

    def _ask(self, number: int, over: threading.Event) -> None:
        over.wait(ASK_EVERY_S * number / POLLERS)
        with httpx2.Client(base_url=self.site.url, trust_env=False, timeout=30) as client:
            while not over.is_set():
                if number % 2:
                    answer = client.get("/health")
                else:
                    answer = client.post("/gradio_api/run/status", json={"data": [self.run]})
                self.answers += 1
                if answer.status_code != 200:
                    self.failures.append(f"{answer.status_code} {answer.text[:80]}")
                over.wait(ASK_EVERY_S)


def main() -> int:
    parser = argparse.ArgumentParser(description="Steps a second of a training, watched and alone.")
    parser.add_argument("--minutes", type=float, default=5.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser, serve(Path(folder) / "program") as site:
        sys.stdout.write(
            f"start-up: {site.ready_s:.1f} s until the address is printed, {_usable(browser, site):.1f} s "
        )
        sys.stdout.write("until a browser shows the page\n")
        run, events = _begin(site, Path(folder))
        pollers = Pollers(site, run)
        phases = _measure(browser, site, pollers, events, arguments.minutes * 60)
    _tell(phases, pollers)
    return 1 if pollers.failures else 0


def _usable(browser: Browser, site: Site) -> float:
    """Seconds from the start of the program to a page that a person can use: ``site`` has just been started."""
    began = time.monotonic()
    with visit(browser, site):
        return site.ready_s + time.monotonic() - began


def _begin(site: Site, folder: Path) -> tuple[str, EventLog]:
    """A training that lasts longer than any measurement, in the program's own process."""
    checkpoint = create_tiny_checkpoint(folder / "models")
    for number in range(4):
        write_song(folder / "music" / f"{number}.wav", 8.0, seed=number)
        (folder / "music" / f"{number}.caption.txt").write_text(f"piece {number}")
    client = Client(site.url, verbose=False, analytics_enabled=False)
    encoded = _ask(client, "start_preprocessing", {"source": str(folder / "music"), "checkpoint": str(checkpoint)})
    while _ask(client, "status", encoded["run_id"])["state"] == "running":
        time.sleep(0.5)
    settings = {"tensor_dir": "datasets/preprocessed_tensors", "checkpoint": str(checkpoint), "max_epochs": 100_000}
    settings |= {"out": "lora_output/load", "save_every_n_epochs": 0, "measure_every_n_epochs": 0}
    started = _ask(client, "start_training", {**settings, "auto_save_best_after": 0, "log_every_n_steps": 1})
    client.close()
    events = EventLog(site.workspace / started["run_id"] / "events.jsonl")
    while not any(isinstance(event, StepLogged) for event in events.read()[0]):
        time.sleep(0.5)
    return started["run_id"], events


def _ask(client: Client, name: str, *values: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.predict(*values, api_name=f"/{name}")
    assert "error" not in answer, answer
    return answer


def _measure(
    browser: Browser, site: Site, pollers: Pollers, events: EventLog, seconds: float
) -> dict[bool, list[float]]:
    """Steps a second of each phase, by whether it was watched."""
    found: dict[bool, list[float]] = {False: [], True: []}
    phases = max(2, round(seconds / PHASE_S / 2) * 2)
    for number in range(phases):
        watched = number % 4 in (1, 2)  # alone, watched, watched, alone: a slow change falls on both alike
        with ExitStack() as watching:
            if watched:
                for _ in range(PAGES):
                    tab(watching.enter_context(visit(browser, site)), "4. Train")
                watching.enter_context(pollers.asking())
            time.sleep(SETTLE_S)
            found[watched].append(_steps_a_second(events, PHASE_S - SETTLE_S))
        sys.stdout.write(f"{'watched' if watched else 'alone  '}  {found[watched][-1]:.2f} steps/s\n")
        sys.stdout.flush()
    return found


def _steps_a_second(events: EventLog, seconds: float) -> float:
    _, offset = events.read()
    began = time.monotonic()
    time.sleep(seconds)
    new, _ = events.read(offset)
    return sum(isinstance(event, StepLogged) for event in new) / (time.monotonic() - began)


def _tell(phases: dict[bool, list[float]], pollers: Pollers) -> None:
    alone, watched = statistics.mean(phases[False]), statistics.mean(phases[True])
    sys.stdout.write(
        f"alone {alone:.2f}, watched by {PAGES} pages and {POLLERS} programs {watched:.2f} steps/s: "
        f"ratio {watched / alone:.3f}\n{pollers.answers} answers, {len(pollers.failures)} of them refused or failed\n"
    )
    for failure in pollers.failures[:3]:
        sys.stdout.write(f"  {failure}\n")


if __name__ == "__main__":
    sys.exit(main())
