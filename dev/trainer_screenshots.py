"""Pictures of every tab: empty and full, light and dark, on a desk and on a phone.

    python -m dev.trainer_screenshots OUT [--workspace DIR] [--docs]

With a workspace that was filled before, the work is not done again. ``--docs`` makes those of README and guide alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.ui.drive import Site, chromium, fill, press, serve, tab, visit, wait_for_state

TABS = {
    "1. Service": "service",
    "2. Dataset": "dataset",
    "3. Preprocess": "preprocess",
    "4. Train": "train",
    "5. Listen": "listen",
    "6. Export": "export",
    "Runs": "runs",
    "System": "system",
}
SCREENS = {"wide": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
THEMES = ("light", "dark")
PAINTED_S = 2.5  # until the live parts of a tab have been painted


def main() -> int:
    parser = argparse.ArgumentParser(description="Pictures of every tab of the trainer.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--workspace", type=Path, help="kept, and used again")
    parser.add_argument("--docs", action="store_true", help="only the pictures that the documents show")
    parser.add_argument("--only", default="", help="part of the pictures' names")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as spare, chromium() as browser:
        if not arguments.docs:
            with serve(Path(spare) / "empty") as site:
                shoot(browser, site, arguments.out, "empty", arguments.only)
        workspace = arguments.workspace or Path(spare) / "full"
        known = (workspace / "lora_output").is_dir()
        with serve(workspace) as site:
            if not known:
                fill_workspace(browser, site)
            if arguments.docs:
                show_in_docs(browser, site, arguments.out)
            else:
                shoot(browser, site, arguments.out, "full", arguments.only)
    return 0


def show_in_docs(browser: Browser, site: Site, out: Path) -> None:
    """A training half-way, and the samples of another one while one of them plays."""
    with visit(browser, site, viewport={"width": 1280, "height": 1000}) as page:
        _begin(page, "half-way", "24", every="8")
        half_way = "document.querySelector('#tr-train-status progress')?.value >= 26"
        page.wait_for_function(half_way, timeout=400_000)
        time.sleep(PAINTED_S)
        page.screenshot(path=out / "page-train.png", full_page=True)
        press(page, "tr-train-stop")
        wait_for_state(page, "tr-train", "stopped")
    with visit(browser, site, viewport={"width": 1280, "height": 800}, color_scheme="dark") as page:
        tab(page, "5. Listen")
        page.locator("#tr-compare-run input").click()
        page.get_by_role("option", name="lively").click()
        expect(page.locator("#tr-compare-grid")).to_contain_text("epoch 20")
        page.locator("#tr-compare-grid button[data-src]").nth(3).click()
        time.sleep(PAINTED_S)
        page.screenshot(path=out / "page-listen.png")
    with visit(browser, site, viewport={"width": 1280, "height": 900}) as page:
        tab(page, "2. Dataset")
        time.sleep(PAINTED_S)
        page.screenshot(path=out / "page-dataset.png")


def shoot(browser: Browser, site: Site, out: Path, state: str, only: str) -> None:
    """All pictures of one state."""
    for name, page in _pages(browser, site, state, only):
        for title, short in TABS.items():
            path = out / f"{name}-{short}.png"
            if only in path.name:
                tab(page, title)
                time.sleep(PAINTED_S)
                page.screenshot(path=path, full_page=True)
                sys.stdout.write(f"{path}\n")


def _pages(browser: Browser, site: Site, state: str, only: str) -> Iterator[tuple[str, Page]]:
    for screen, size in SCREENS.items():
        for theme in THEMES:
            name = f"{state}-{screen}-{theme}"
            if only in name or any(only in f"{name}-{short}.png" for short in TABS.values()):
                with visit(browser, site, viewport=size, color_scheme=theme) as page:
                    yield name, page


def fill_workspace(browser: Browser, site: Site) -> None:
    """The whole work on the demo songs and the tiny model, through the page."""
    with visit(browser, site) as page:
        press(page, "tr-service-tiny")
        expect(page.locator("#tr-service-about")).to_contain_text("acestep-v15-tiny: complete")
        tab(page, "2. Dataset")
        press(page, "tr-dataset-demo")
        expect(page.locator("#tr-songs-summary")).to_contain_text("6 songs")
        tab(page, "3. Preprocess")
        press(page, "tr-preprocess-start")
        wait_for_state(page, "tr-preprocess", "done")
        for name, epochs in (("calm", "40"), ("lively", "60")):
            _train(page, name, epochs)
        tab(page, "5. Listen")
        fill(page, "piece-prompt", "calm synthesiser over slow drums")
        fill(page, "piece-duration-s", "6")
        page.get_by_role("button", name="Generate with several").click()
        press(page, "tr-compare-start")
        wait_for_state(page, "tr-compare", "done")
        press(page, "tr-generate-start")
        wait_for_state(page, "tr-generate", "done")
        tab(page, "6. Export")
        press(page, "tr-export-start")
        expect(page.locator("#tr-export-result")).to_contain_text("Exported and verified")


def _train(page: Page, name: str, epochs: str) -> None:
    _begin(page, name, epochs)
    wait_for_state(page, "tr-train", "done")


def _begin(page: Page, name: str, epochs: str, every: str = "20") -> None:
    tab(page, "4. Train")
    fill(page, "tr-train-name", name)
    fill(page, "training-max-epochs", epochs)
    fill(page, "training-save-every-n-epochs", every)
    for fold in ("training", "samples"):
        if not page.locator(f"#{fold}-advanced input").first.is_visible():
            page.locator(f"#{fold}-advanced > button").click()
    fill(page, "training-log-every-n-steps", "1")
    if not page.locator("#samples-enabled input").is_checked():
        page.locator("#samples-enabled input").check()
        fill(page, "samples-prompt", "calm synthesiser over slow drums")
        fill(page, "samples-duration-s", "6")
    press(page, "tr-train-start")
    wait_for_state(page, "tr-train", "running")


if __name__ == "__main__":
    sys.exit(main())
