"""Pictures of every tab of the captioner: empty and full, light and dark, on a desk and on a phone.

    python -m dev.captioner_screenshots OUT [--songs DIR] [--only WORDS]

Without a folder three songs of a few seconds are made. The labels are written beside the songs by the tiny models.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from acestep.captioning.tiny import create_tiny_omni
from dev.trainer_screenshots import PAINTED_S, SCREENS, THEMES
from tests.songs import write_song
from tests.ui.drive import chromium, fill, press, tab, wait_for_state
from tests.ui.test_captioner_page import NAMES, Site, local, serve, settings, visit

TABS = {"1. Songs": "songs", "2. Engine": "engine", "3. Run": "run", "4. Review": "review", "System": "system"}


def main() -> int:
    parser = argparse.ArgumentParser(description="Pictures of every tab of the captioner.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--songs", type=Path)
    parser.add_argument("--only", default="", help="part of the pictures' names")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as spare, chromium() as browser:
        for state in ("empty", "full"):
            workspace = Path(spare) / state
            workspace.mkdir()
            with serve(workspace) as site:
                if state == "full":
                    _fill(browser, site, arguments.songs or _songs(Path(spare) / "songs"))
                _shoot(browser, site, arguments.out, state, arguments.only)
    return 0


def _songs(folder: Path) -> Path:
    for seed, name in enumerate(NAMES):
        write_song(folder / name, 8.0, seed)
    return folder


def _fill(browser: Browser, site: Site, songs: Path) -> None:
    """Caption the songs through the page, and correct one."""
    models = site.workspace / "checkpoints"
    for kind in ("captioner", "transcriber"):
        create_tiny_omni(models, kind)
    settings(site, songs, **local(models, transcriber="local", custom_tag="zx_style"))
    with visit(browser, site) as page:
        page.locator("#cp-config > button").click()
        fill(page, "cp-config-file", "given.json")
        press(page, "cp-config-load")
        expect(page.locator("#cp-config-status")).to_contain_text("Loaded")
        press(page, "cp-scan")
        tab(page, "3. Run")
        press(page, "cp-start")
        wait_for_state(page, "cp-job", "done")
        tab(page, "4. Review")
        page.locator("[data-testid=cell-1-0]").first.click()
        fill(page, "cp-song-genre", "folk")
        press(page, "cp-song-save")
        expect(page.locator("#cp-song-genre")).to_contain_text("edited by you, locked")


def _shoot(browser: Browser, site: Site, out: Path, state: str, only: str) -> None:
    """All pictures of one state."""
    for screen, size in SCREENS.items():
        for theme in THEMES:
            with visit(browser, site, viewport=size, color_scheme=theme) as page:
                for title, short in TABS.items():
                    path = out / f"{state}-{screen}-{theme}-{short}.png"
                    if only in path.name:
                        _picture(page, title, state, path)


def _picture(page: Page, title: str, state: str, path: Path) -> None:
    tab(page, title)
    if title == "4. Review" and state == "full":
        page.locator("[data-testid=cell-0-0]").first.click()
        expect(page.locator("#cp-song-player button[aria-label=Play]")).to_be_visible()
    time.sleep(PAINTED_S)
    page.screenshot(path=path, full_page=True)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
