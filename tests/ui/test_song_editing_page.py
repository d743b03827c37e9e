"""The songs of the trainer page in a real browser: what a person types is saved at once and survives everything."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from acestep.captioning.tiny import create_tiny_omni
from tests.songs import write_song
from tests.ui.drive import Site, box, fill, open_page, press, tab, visit

pytestmark = pytest.mark.browser

NAMES = ("first", "second", "third")


@pytest.fixture(scope="module")
def three_songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    for seed, name in enumerate(NAMES):
        write_song(folder / f"{name}.wav", 1.0, seed)
    (folder / "first.caption.txt").write_text("A calm piece")
    return folder


@pytest.fixture
def folder(three_songs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three_songs, tmp_path / "songs"))


@pytest.fixture
def page(browser: Browser, site: Site, folder: Path) -> Iterator[Page]:
    """The page with the songs scanned."""
    with visit(browser, site) as page:
        tab(page, "2. Dataset")
        fill(page, "tr-dataset-folder", str(folder))
        scan(page)
        yield page


def scan(page: Page) -> None:
    press(page, "tr-dataset-scan")
    expect(page.get_by_test_id("toast-body").filter(has_text="Found").last).to_be_visible()
    page.get_by_test_id("toast-close").last.click()


def select(page: Page, index: int) -> None:
    page.get_by_test_id(f"cell-{index}-1").click()
    expect(page.locator("#tr-song-title")).to_contain_text(f"{NAMES[index]}.wav")


def type_into(page: Page, elem_id: str, text: str) -> None:
    """Replace the text of a field key by key, and stay in it."""
    box(page, elem_id).press("Control+a")
    box(page, elem_id).press_sequentially(text)


def until_saved(page: Page) -> None:
    expect(page.locator("#tr-song-state [data-saved]")).to_have_attribute("data-saved", "saved")


def labels(folder: Path, index: int) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{NAMES[index]}.json").read_text(encoding="utf-8"))
    return content


def test_a_typed_caption_is_saved_without_a_button_and_survives_a_second_scan(page: Page, folder: Path) -> None:
    select(page, 1)
    fill(page, "tr-song-caption", "Typed by hand")
    expect(page.locator("#tr-song-caption")).to_contain_text("written by you")
    until_saved(page)
    assert (labels(folder, 1)["caption"], labels(folder, 1)["sources"]["caption"]) == ("Typed by hand", "user")
    (folder / "second.json").unlink()
    (folder / "second.caption.txt").unlink()
    scan(page)
    expect(page.locator("#tr-songs-table")).to_contain_text("Typed by hand")


def test_text_is_saved_while_the_field_is_still_being_edited(page: Page, site: Site, folder: Path) -> None:
    select(page, 2)
    type_into(page, "tr-song-lyrics", "Lamps along the bay")
    expect(page.locator("#tr-song-state")).to_contain_text("Saving")
    open_page(page, site)  # a reload, without leaving the field
    tab(page, "2. Dataset")
    select(page, 2)
    expect(box(page, "tr-song-lyrics")).to_have_value("Lamps along the bay")
    expect(page.locator("#tr-song-instrumental input")).not_to_be_checked()
    until_saved(page)
    assert labels(folder, 2)["lyrics"] == "Lamps along the bay"


def test_choosing_another_song_keeps_what_is_typed(page: Page, folder: Path) -> None:
    select(page, 0)
    type_into(page, "tr-song-caption", "First one")
    select(page, 1)
    type_into(page, "tr-song-caption", "Second one")
    press(page, "tr-song-previous")
    expect(box(page, "tr-song-caption")).to_have_value("First one")
    press(page, "tr-song-next")
    expect(box(page, "tr-song-caption")).to_have_value("Second one")
    assert [labels(folder, index)["caption"] for index in (0, 1)] == ["First one", "Second one"]


def test_an_invalid_field_is_marked_and_the_others_are_stored(page: Page, site: Site, folder: Path) -> None:
    select(page, 1)
    fill(page, "tr-song-bpm", "fast")
    fill(page, "tr-song-genre", "folk")
    fill(page, "tr-song-key", "D minor")
    expect(page.locator("#tr-song-bpm")).to_contain_text("Must be a number, not 'fast'")
    expect(page.locator("#tr-song-key")).to_contain_text("written by you")
    assert (labels(folder, 1)["genre"], labels(folder, 1)["keyscale"]) == ("folk", "D minor")
    press(page, "tr-song-save")
    expect(page.get_by_test_id("toast-body").last).to_contain_text("BPM: Must be a number")
    open_page(page, site)
    tab(page, "2. Dataset")
    select(page, 1)
    expect(box(page, "tr-song-bpm")).to_have_value("fast")
    expect(page.locator("#tr-song-bpm")).to_contain_text("Must be a number, not 'fast'")
    fill(page, "tr-song-bpm", "98")
    expect(page.locator("#tr-song-bpm")).to_contain_text("written by you")
    assert labels(folder, 1)["bpm"] == 98


def test_undo_restores_the_field_and_the_files(page: Page, folder: Path) -> None:
    select(page, 0)
    fill(page, "tr-song-caption", "Typed by hand")
    expect(page.locator("#tr-song-caption")).to_contain_text("written by you")
    press(page, "tr-song-undo")
    expect(box(page, "tr-song-caption")).to_have_value("A calm piece")
    assert not (folder / "first.json").exists()
    assert (folder / "first.caption.txt").read_text() == "A calm piece"


def test_a_label_file_that_cannot_be_written_is_reported_and_the_text_stays(page: Page, folder: Path) -> None:
    (folder / "second.json").mkdir()
    select(page, 1)
    fill(page, "tr-song-caption", "Only in the draft")
    expect(page.locator("#tr-song-state")).to_contain_text("Saved in this program only")
    scan(page)
    expect(page.locator("#tr-songs-table")).to_contain_text("Only in the draft")


def test_a_version_from_elsewhere_is_shown_beside_the_typed_one(page: Page, folder: Path) -> None:
    select(page, 0)
    fill(page, "tr-song-caption", "Typed by hand")
    expect(page.locator("#tr-song-caption")).to_contain_text("written by you")
    (folder / "first.json").write_text(json.dumps({"caption": "Written in an editor"}))
    scan(page)
    expect(page.locator("#tr-conflicts-text")).to_contain_text("Two versions of Caption of first.wav")
    expect(page.locator("#tr-conflicts-text")).to_contain_text("Typed by hand")
    expect(page.locator("#tr-conflicts-text")).to_contain_text("Written in an editor")
    expect(box(page, "tr-song-caption")).to_have_value("Typed by hand")
    press(page, "tr-conflicts-file")
    expect(page.locator("#tr-conflicts")).not_to_be_visible()
    expect(box(page, "tr-song-caption")).to_have_value("Written in an editor")


def test_the_page_asks_what_to_do_about_songs_without_a_caption(page: Page, site: Site, folder: Path) -> None:
    step = page.locator("#tr-head li").nth(1)
    expect(page.locator("#tr-captions-text")).to_contain_text("2 of 3 songs have no caption")
    expect(page.locator("#tr-captions-text")).to_contain_text("GEMINI_API_KEY")
    expect(step).to_have_class("ac-decide")
    press(page, "tr-captions-tag")
    expect(page.get_by_test_id("toast-body").last).to_contain_text("There is no activation tag")
    page.get_by_test_id("toast-close").last.click()
    fill(page, "dataset-custom-tag", "zx_band")
    press(page, "tr-captions-tag")
    expect(step).to_have_class("ac-done")
    expect(step).to_contain_text("tag alone")
    open_page(page, site)
    expect(step).to_have_class("ac-done")
    tab(page, "3. Preprocess")
    expect(page.locator("#preprocess-include-unlabelled input")).to_be_checked()
    write_song(folder / "fourth.wav", 1.0, 7)
    tab(page, "2. Dataset")
    scan(page)
    expect(page.locator("#tr-captions-text")).to_contain_text("3 of 4 songs have no caption")
    expect(step).to_have_class("ac-decide")
    press(page, "tr-captions-open")
    expect(page.locator("#tr-captions-link")).to_contain_text("launch.py --mode caption")
    expect(step).to_contain_text("described elsewhere")
    fill(page, "dataset-custom-tag", "")


def test_songs_are_described_on_the_page(page: Page, folder: Path, tmp_path: Path) -> None:
    select(page, 2)
    fill(page, "tr-song-genre", "typed genre")
    create_tiny_omni(tmp_path / "models", "captioner")
    tab(page, "1. Service")
    fill(page, "tr-service-folder", str(tmp_path / "models"))
    tab(page, "2. Dataset")
    expect(page.locator("#tr-captions-text")).not_to_contain_text("GEMINI_API_KEY")
    press(page, "tr-caption-start")
    expect(page.locator("#tr-songs-summary")).to_contain_text("3 labeled", timeout=120_000)
    expect(page.locator("#tr-captions")).not_to_be_visible()
    expect(box(page, "tr-song-caption")).to_have_value(re.compile("A calm piece for piano"), timeout=60_000)
    expect(box(page, "tr-song-genre")).to_have_value("typed genre")
    assert (folder / "first.caption.txt").read_text() == "A calm piece"


def test_the_activation_tag_is_taken_from_the_label_files(page: Page, folder: Path) -> None:
    (folder / "second.json").write_text(json.dumps({"custom_tag": "zx_found"}))
    fill(page, "dataset-custom-tag", "")
    scan(page)
    expect(box(page, "dataset-custom-tag")).to_have_value("zx_found")
    fill(page, "dataset-custom-tag", "zx_typed")
    scan(page)
    expect(box(page, "dataset-custom-tag")).to_have_value("zx_typed")
    fill(page, "dataset-custom-tag", "")
