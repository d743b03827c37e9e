"""The captioner in a real browser: caption, edit, stop and go on, lyrics alone, settings as a file, an online service.

The tiny models and a local server that speaks as the services do; nothing but this computer is reached.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from gradio_client import Client
from playwright.sync_api import Browser, Page, expect

import captioner_standalone
from acestep.captioning.tiny import create_tiny_omni
from acestep.core.event_log import EventLog
from acestep.core.events import Progressed, Started, Waiting
from acestep.core.paths import PROJECT
from acestep.dataset.scan import scan_folder
from acestep.ui.captioner import config_file
from tests.fake_cloud import CAPTION, KEY, FakeCloud, fake_cloud
from tests.songs import write_song
from tests.ui.drive import Traffic, box, fill, free_port, press, tab, wait_for_state

browser_test = pytest.mark.browser

NAMES = ("first.wav", "second.wav", "third.wav")
TINY = "A calm piece for piano"
KEYS = {"OPENAI_API_KEY": "", "GEMINI_API_KEY": "", "GOOGLE_API_KEY": "", "ELEVENLABS_API_KEY": ""}


@dataclass
class Site:
    """A running captioner and the folder it works in."""

    url: str
    workspace: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoints")
    create_tiny_omni(root, "captioner")
    create_tiny_omni(root, "transcriber")
    return root


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with serve(tmp_path_factory.mktemp("workspace")) as running:
        yield running


@pytest.fixture
def card(site: Site) -> Iterator[Path]:
    """What NVIDIA's tool will say: nothing until this file is there."""
    path = site.workspace / "card"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Three songs of three seconds."""
    for seed, name in enumerate(NAMES):
        write_song(tmp_path / "songs" / name, 3.0, seed)
    return tmp_path / "songs"


@contextmanager
def serve(workspace: Path) -> Iterator[Site]:
    """``python launch.py --mode caption`` over ``workspace``."""
    port = free_port()
    tool = workspace / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\ncase "$1" in *memory.total,name) cat {workspace}/card;; esac\n')
    tool.chmod(0o755)
    path = f"{workspace}{os.pathsep}{os.environ['PATH']}"
    places = {"PATH": path, "ACESTEP_WORKSPACE": str(workspace), "GRADIO_TEMP_DIR": str(workspace / "cache")}
    command = [sys.executable, str(PROJECT / "launch.py"), "--mode", "caption", "--port", str(port)]
    with (workspace / "server.log").open("w") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env={name: value for name, value in os.environ.items() if name not in KEYS} | places,
            cwd=workspace,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            assert url, (workspace / "server.log").read_text()
            yield Site(url, workspace)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            process.stdout.close()


@contextmanager
def visit(browser: Browser, site: Site, **context: Any) -> Iterator[Page]:
    """An open page; afterwards it has asked for nothing outside and complained about nothing."""
    opened = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}, **context})
    page, traffic = opened.new_page(), Traffic()
    traffic.watch(page)
    page.goto(site.url, wait_until="domcontentloaded")
    expect(page.locator("#cp-head h1")).to_be_visible()
    yield page
    opened.close()
    assert traffic.outside == []
    assert traffic.errors == []


def settings(site: Site, songs: Path, **job: Any) -> None:
    """The settings of a file, as somebody would have saved them."""
    state = {"caption_input_dir": str(songs)}
    path = site.workspace / "given.json"
    path.write_text(json.dumps({"schema": "captioner_config", "version": 1, "ui_state": state, "job": job}))


def load(page: Page, songs: Path) -> None:
    """Load those settings and scan the folder that they name."""
    tab(page, "1. Songs")
    page.locator("#cp-config > button").click()
    fill(page, "cp-config-file", "given.json")
    press(page, "cp-config-load")
    expect(page.locator("#cp-config-status")).to_contain_text("Loaded")
    expect(box(page, "cp-folder")).to_have_value(str(songs))
    press(page, "cp-scan")
    expect(page.locator("#cp-summary")).to_contain_text("3 songs")


def run(page: Page, button: str, state: str = "done") -> None:
    """Press a button of the run tab and wait for the end of that run."""
    tab(page, "3. Run")
    pill = page.locator("#cp-job-status [data-state]")
    before = pill.get_attribute("data-run")
    expect(page.locator(f"#{button}")).to_be_enabled()
    press(page, button)
    expect(pill).not_to_have_attribute("data-run", before or "")
    wait_for_state(page, "cp-job", state)


def labels(songs: Path, name: str) -> dict[str, Any]:
    """What stands in the label file of a song."""
    content: dict[str, Any] = json.loads((songs / name).with_suffix(".json").read_text(encoding="utf-8"))
    return content


def local(models: Path, **more: Any) -> dict[str, Any]:
    """The tiny models as the engine."""
    return {"checkpoints": str(models), "captioner": "local", "transcriber": "none", "max_tokens": 64, **more}


@browser_test
def test_captions_are_made_edited_and_stay_as_edited(browser: Browser, site: Site, songs: Path, models: Path) -> None:
    settings(site, songs, **local(models))
    with visit(browser, site) as page:
        load(page, songs)
        tab(page, "2. Engine")
        expect(page.locator("#cp-needs")).to_contain_text(f"Found in {models}")
        tab(page, "3. Run")
        expect(page.locator("#cp-plan")).to_contain_text("3 of 3 songs to do")
        run(page, "cp-start")
        expect(page.locator("#cp-table")).to_contain_text(TINY)
        tab(page, "4. Review")
        page.locator("[data-testid=cell-0-0]").first.click()
        expect(box(page, "cp-song-caption")).to_have_value(f"{labels(songs, NAMES[0])['caption']}")
        expect(page.locator("#cp-song-player button[aria-label=Play]")).to_be_visible()
        fill(page, "cp-song-caption", "My own words")
        fill(page, "cp-song-bpm", "70")
        press(page, "cp-bpm-double")
        expect(box(page, "cp-song-bpm")).to_have_value("140")
        press(page, "cp-song-save")
        expect(page.locator("#cp-song-caption")).to_contain_text("edited by you, locked")
        settings(site, songs, **local(models, existing="redo"))
        load_again(page)
        run(page, "cp-start")
        expect(page.locator("#cp-table")).to_contain_text("My own words")
        tab(page, "4. Review")
        page.locator("#cp-bulk > button").click()
        page.locator("#bulk-action input").first.click()
        page.get_by_role("option", name="replace").click()
        fill(page, "bulk-find", "piano")
        fill(page, "bulk-text", "harp")
        press(page, "cp-bulk-preview")
        expect(page.locator("#cp-bulk-shown")).to_contain_text("2 songs would change")
        press(page, "cp-bulk-apply")
        expect(page.locator("#cp-review-table")).to_contain_text("for harp")
        assert "for harp" in labels(songs, NAMES[1])["caption"]
        press(page, "cp-bulk-undo")
        expect(page.locator("#cp-review-table")).to_contain_text("for piano")
    edited = labels(songs, NAMES[0])
    assert (edited["caption"], edited["bpm"], edited["sources"]["caption"]) == ("My own words", 140, "user")
    assert labels(songs, NAMES[1])["caption"].startswith(TINY)
    read = scan_folder(songs).dataset.samples
    assert [sample.caption.split()[0] for sample in read] == ["My", "A", "A"]


def load_again(page: Page) -> None:
    """Load the file anew: another one stands there."""
    tab(page, "1. Songs")
    press(page, "cp-config-load")
    expect(page.locator("#cp-config-status")).to_contain_text("Loaded")


@browser_test
def test_lyrics_can_be_written_without_changing_captions(
    browser: Browser, site: Site, songs: Path, models: Path
) -> None:
    settings(site, songs, **local(models, transcriber="local"))
    with visit(browser, site) as page:
        load(page, songs)
        run(page, "cp-lyrics")
        expect(page.locator("#cp-job-status")).to_contain_text("0 described, 0 measured, 3 transcribed")
        tab(page, "4. Review")
        page.locator("[data-testid=cell-0-0]").first.click()
        expect(box(page, "cp-song-lyrics")).to_have_value(labels(songs, NAMES[0])["lyrics"])
        press(page, "cp-insert-bridge")
        expect(box(page, "cp-song-lyrics")).to_have_value(labels(songs, NAMES[0])["lyrics"] + "\n\n[Bridge]\n")
    for name in NAMES:
        assert labels(songs, name).get("caption", "") == ""
        assert "The lamps are lit" in labels(songs, name)["lyrics"]


@pytest.fixture
def cloud() -> Iterator[FakeCloud]:
    with fake_cloud() as cloud:
        yield cloud


def use_key(page: Page) -> None:
    """Type the key of the service."""
    tab(page, "2. Engine")
    page.locator("#cp-keys > button").click()
    fill(page, "cp-key-gemini", KEY)
    press(page, "cp-keys-use")
    expect(page.locator("#cp-keys-state")).to_contain_text(f"set (...{KEY[-4:]})")
    expect(box(page, "cp-key-gemini")).to_have_value("")


@browser_test
def test_a_service_run_is_stopped_resumed_and_retried(
    browser: Browser, site: Site, songs: Path, cloud: FakeCloud
) -> None:
    """The second song waits for a busy service: stopped there, seen after a reload, and gone on with."""
    job = {"captioner": "gemini", "transcriber": "none", "measure": False, "existing": "keep"}
    settings(site, songs, **job, gemini_url=cloud.url, retries=1)
    cloud.script += ["ok", "429:60"]
    with visit(browser, site) as page:
        load(page, songs)
        tab(page, "2. Engine")
        expect(page.locator("#cp-needs")).to_contain_text("Audio is sent to 127.0.0.1")
        expect(page.locator("#cp-needs")).to_contain_text("Its key is not set")
        use_key(page)
        tab(page, "3. Run")
        expect(page.locator("#cp-plan")).to_contain_text("Estimated time: 9 s.")
        expect(page.locator("#cp-plan")).to_contain_text("less than 0.01 USD")
        press(page, "cp-start")
        expect(page.locator("#cp-table")).to_contain_text(CAPTION)
        page.reload()
        tab(page, "3. Run")
        expect(page.locator("#cp-job-status [data-state]")).to_have_attribute("data-state", "running")
        expect(page.locator("#cp-start")).to_be_disabled()
        press(page, "cp-stop")
        wait_for_state(page, "cp-job", "stopped")
        assert labels(songs, NAMES[0])["caption"] == CAPTION
        assert not (songs / NAMES[1]).with_suffix(".json").exists()
        cloud.script = ["empty", "empty", "ok"]
        asked = len(cloud.requests)
        run(page, "cp-start")
        expect(page.locator("#cp-job-status")).to_contain_text("1 file skipped")
        expect(page.locator("#cp-job-status")).to_contain_text("1 song already had all labels")
        assert len(cloud.requests) - asked == 3
        run(page, "cp-retry")
        expect(page.locator("#cp-plan")).to_contain_text("All songs have the selected labels")
    assert [labels(songs, name)["caption"] for name in NAMES] == [CAPTION] * 3
    written = [path for path in [*site.workspace.rglob("*"), *songs.rglob("*")] if path.is_file()]
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []


@browser_test
def test_a_song_is_edited_while_the_run_waits_for_its_answer(
    browser: Browser, site: Site, songs: Path, cloud: FakeCloud
) -> None:
    settings(site, songs, captioner="gemini", transcriber="none", measure=False, gemini_url=cloud.url)
    cloud.script += ["ok", "hold"]
    with visit(browser, site) as page:
        load(page, songs)
        use_key(page)
        tab(page, "3. Run")
        press(page, "cp-start")
        expect(page.locator("#cp-table")).to_contain_text(CAPTION)
        tab(page, "4. Review")
        page.locator("[data-testid=cell-1-0]").first.click()
        fill(page, "cp-song-caption", "Typed while it listened")
        press(page, "cp-song-save")
        expect(page.locator("#cp-song-caption")).to_contain_text("edited by you, locked")
        page.locator("[data-testid=cell-2-0]").first.click()
        expect(page.locator("#cp-song-title")).to_contain_text(NAMES[2])
        cloud.release.set()
        wait_for_state(page, "cp-job", "done")
        fill(page, "cp-song-genre", "folk")  # the caption came after the fields were filled
        press(page, "cp-song-save")
        expect(box(page, "cp-song-caption")).to_have_value(CAPTION)
    assert [labels(songs, name)["caption"] for name in NAMES] == [CAPTION, "Typed while it listened", CAPTION]
    assert labels(songs, NAMES[2])["sources"] | {"genre": "user"} == labels(songs, NAMES[2])["sources"]
    assert labels(songs, NAMES[2])["sources"]["caption"] != "user"


@browser_test
def test_gpu_memory_is_shown_while_it_fills(browser: Browser, site: Site, card: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "3. Run")
        expect(page.locator("#cp-gpu-memory")).to_have_text("")
        card.write_text("3072, 24576, NVIDIA Test Card")
        expect(page.locator("#cp-gpu-memory")).to_contain_text("NVIDIA Test Card: 3.0 of 24.0 GB used")
        card.write_text("12288, 24576, NVIDIA Test Card")
        expect(page.locator("#cp-gpu-memory")).to_contain_text("12.0 of 24.0 GB used (50 %), 12.0 GB free")


@browser_test
def test_a_run_that_waits_for_the_gpu_can_share_it(browser: Browser, site: Site, songs: Path, models: Path) -> None:
    """A run of another program, which says that the trainer has the card."""
    settings(site, songs, **local(models))
    folder = songs / ".captioning"
    folder.mkdir()
    log = EventLog(folder / "events.jsonl")
    with visit(browser, site) as page, FileLock(folder / "lock"):
        log.emit(Started(job="caption", total=3, unit="songs"))
        load(page, songs)
        tab(page, "3. Run")
        expect(page.locator("#cp-job-status")).to_contain_text("0 of 3 songs")
        expect(page.locator("#cp-job-beside")).not_to_be_visible()
        log.emit(Waiting(message="waiting for cuda, which training in /runs/mine uses"))
        expect(page.locator("#cp-job-status")).to_contain_text("waiting for cuda, which training in /runs/mine uses")
        press(page, "cp-job-beside")
        expect(page.locator("#cp-job-beside")).to_be_visible()
        ends = time.monotonic() + 10
        while not (folder / "share").exists():
            assert time.monotonic() < ends
            time.sleep(0.1)
        log.emit(Progressed(done=1, total=3, note="first.wav: done"))
        expect(page.locator("#cp-job-beside")).not_to_be_visible()


@browser_test
def test_what_is_saved_and_loaded_again_is_the_same_and_a_phone_shows_it(
    browser: Browser, site: Site, songs: Path, models: Path
) -> None:
    job = local(models, transcriber="whisper", custom_tag="zx_style", max_tokens=99, existing="redo")
    settings(site, songs, **job)
    with visit(browser, site) as page:
        load(page, songs)
        fill(page, "cp-config-file", config_file.NAME)
        press(page, "cp-config-save")
        expect(page.locator("#cp-config-status")).to_contain_text("Saved")
    saved = json.loads((site.workspace / config_file.NAME).read_text())
    assert saved["ui_state"]["generate_lyrics_check"] is True
    assert saved["ui_state"]["caption_input_dir"] == str(songs)
    assert {name: saved["job"][name] for name in job} == job
    with visit(browser, site, viewport={"width": 390, "height": 800}, color_scheme="dark") as page:
        load(page, songs)
        tab(page, "2. Engine")
        expect(page.locator("#caption-captioner")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        tab(page, "1. Songs")
        press(page, "cp-scan")
        message = page.locator(".toast-body").first.bounding_box()
        tabs = page.get_by_role("tablist").first.bounding_box()
        assert message is not None
        assert tabs is not None
        assert message["y"] > tabs["y"] + tabs["height"]  # it does not lie over the tabs
        tab(page, "3. Run")
        expect(page.locator("#cp-start")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@browser_test
def test_the_messages_of_each_tab_arrive(browser: Browser, site: Site, songs: Path) -> None:
    settings(site, songs, captioner="none", transcriber="none", measure=False)
    error = ".toast-body.error"
    with visit(browser, site) as page:
        load(page, songs)
        fill(page, "cp-config-file", "none.json")
        press(page, "cp-config-load")
        expect(page.locator(error)).to_contain_text("none.json")
        fill(page, "cp-config-file", "written.json")
        press(page, "cp-config-save")
        expect(page.locator(".toast-body.info")).to_contain_text("written.json")
        tab(page, "2. Engine")
        page.locator("#cp-keys > button").click()
        press(page, "cp-keys-use")
        expect(page.locator(error)).to_contain_text("No key was entered")
        fill(page, "cp-key-gemini", KEY)
        press(page, "cp-keys-use")
        expect(page.locator(".toast-body.info")).to_contain_text("The keys are in use")
        tab(page, "3. Run")
        press(page, "cp-start")
        expect(page.locator(error)).to_contain_text("Select at least one in 2. Engine")
        tab(page, "2. Engine")
        page.locator("#caption-measure input").check()
        run(page, "cp-start")
        tab(page, "4. Review")
        page.locator("[data-testid=cell-0-0]").first.click()
        expect(page.locator("#cp-song-title")).to_contain_text(NAMES[0])
        fill(page, "cp-song-bpm", "")
        press(page, "cp-bpm-double")
        expect(page.locator(error)).to_contain_text("BPM is empty")
        fill(page, "cp-song-bpm", "70")
        press(page, "cp-bpm-double")
        expect(box(page, "cp-song-bpm")).to_have_value("140")
        tab(page, "System")
        press(page, "cp-system-check")
        expect(page.locator("#cp-system-checks table")).to_be_visible()
        page.locator(error).get_by_test_id("toast-close").click()
        expect(page.locator(error)).to_have_count(0)


@browser_test
def test_another_program_captions_through_the_page(site: Site, songs: Path, models: Path) -> None:
    client = Client(site.url, analytics_enabled=False, verbose=False)
    scanned = client.predict(str(songs), api_name="/scan")
    assert [(song["name"], song["status"]) for song in scanned["songs"]] == [(name, "waiting") for name in NAMES]
    wrong = client.predict({"captoner": "local"}, api_name="/start_captioning")
    assert "did you mean 'captioner'" in wrong["error"]["message"]
    saved = client.predict(NAMES[2], {"caption": "Written by hand"}, api_name="/save_caption")
    assert saved["caption"] == "Written by hand"
    job = local(models, existing="redo", measure=False, only=list(NAMES[1:]))
    assert "error" not in client.predict(job, api_name="/start_captioning")
    ends = time.monotonic() + 60
    while (status := client.predict(api_name="/status"))["state"] != "done":
        assert status["state"] == "running", status
        assert time.monotonic() < ends, status
        time.sleep(0.2)
    assert status["result"]["described"] == 1
    found = client.predict(api_name="/results")["songs"]
    assert [song["caption"].split()[:1] for song in found] == [[], ["A"], ["Written"]]


def test_settings_of_ace_lora_trainer_are_read_and_errors_reported(tmp_path: Path) -> None:
    state = {
        "model_path_input": "C:\\models\\captioner",
        "caption_input_dir": "/music",
        "activation_tag_input": "zx",
        "max_tokens_input": 256,
        "split_duration": 45,
        "generate_lyrics_check": False,
        "save_csv_check": True,
        "csv_path_input": "",
        "new_box": 1,
    }
    path = tmp_path / config_file.NAME
    path.write_text(json.dumps({"schema": "captioner_config", "version": 1, "ui_state": state}))
    values, ignored = config_file.read(path)
    assert values == {
        "caption.captioner_model": "C:\\models\\captioner",
        "folder": "/music",
        "caption.custom_tag": "zx",
        "caption.max_tokens": 256,
        "caption.transcriber": "none",
        "caption.csv": "captions.csv",
    }
    assert ignored == ["new_box is not known", "split_duration cannot be 45"]


def test_the_command_line_of_ace_lora_trainer_captions_a_folder(
    tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_song(tmp_path / "in" / "song.wav", 2.0)
    folders = ["--input_dir", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out")]
    table = ["--output_csv", str(tmp_path / "all.csv")]
    model = ["--model_path", str(models / "acestep-captioner"), "--max_tokens", "64"]
    assert captioner_standalone.main([*folders, *table, *model]) == 0
    assert json.loads((tmp_path / "out" / "song.json").read_text())["caption"].startswith(TINY)
    assert TINY in (tmp_path / "all.csv").read_text()
    with pytest.raises(SystemExit):
        captioner_standalone.main([])
    assert "--input_dir is needed" in capsys.readouterr().err
