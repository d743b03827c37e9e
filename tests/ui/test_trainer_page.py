"""The trainer in a real browser: a person's way from a folder of songs to an adapter, on the tiny model.

Each stage is a fixture that does it once, through the page; the tests after it look at what came of it.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gradio_client import Client
from playwright.sync_api import Browser, Page, Route, expect

from acestep.core.events import Failed
from acestep.core.job_folder import JobFolder
from acestep.core.jobs import write_job
from acestep.models.tiny import create_tiny_checkpoint
from acestep.tensors.record import write_record
from acestep.training.configs import TrainJob
from tests.songs import write_song
from tests.training.songs import make_record
from tests.ui.drive import Site, box, fill, open_page, press, serve, tab, visit, wait_for_state

pytestmark = pytest.mark.browser

SONG_S = 4.0
ALL_TABS = ("1. Service", "2. Dataset", "3. Preprocess", "4. Train", "5. Listen", "6. Export", "Runs", "System")


@pytest.fixture(scope="module")
def empty_page(browser: Browser, site: Site) -> None:
    """Before anything is done: the page says what comes first, and no tab is locked."""
    show_every_tab(browser, site)


def show_every_tab(browser: Browser, site: Site) -> None:
    with visit(browser, site) as page:
        expect(page.locator("#tr-next-step")).to_contain_text("Select the base model")
        for name in ALL_TABS:
            tab(page, name)
            expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        tab(page, "4. Train")
        expect(page.locator("#tr-train-missing")).to_contain_text("No model is selected")
        press(page, "tr-train-go")
        expect(page.get_by_role("tab", name="1. Service")).to_have_attribute("aria-selected", "true")


@pytest.fixture(scope="module")
def model(browser: Browser, site: Site, empty_page: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of a checkpoint is typed, and its models are loaded."""
    checkpoint = create_tiny_checkpoint(tmp_path_factory.mktemp("models"))
    with visit(browser, site) as page:
        fill(page, "tr-service-folder", f'"{checkpoint}"')  # as a file manager copies it
        press(page, "tr-service-look")
        expect(page.locator("#tr-service-about")).to_contain_text("acestep-v15-tiny: complete")
        press(page, "tr-service-load")
        expect(page.locator("#tr-service-about")).to_contain_text("Loading acestep-v15-tiny")
        expect(page.locator("#tr-service-about")).to_contain_text("elapsed")
        expect(page.locator("#tr-service-about")).to_contain_text("acestep-v15-tiny: loaded", timeout=120_000)
        expect(page.locator("#tr-head")).to_contain_text("acestep-v15-tiny loaded")
    return checkpoint


@pytest.fixture(scope="module")
def songs(browser: Browser, site: Site, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder is scanned; the song without a caption gets one by hand."""
    folder = tmp_path_factory.mktemp("music") / "my band"
    for number in (1, 2, 3):
        write_song(folder / f"track {number}.wav", SONG_S, seed=number)
    for number in (1, 2):
        (folder / f"track {number}.caption.txt").write_text(f"calm synthesiser piece {number}")
    (folder / "broken.mp3").write_bytes(b"not music")
    with visit(browser, site) as page:
        tab(page, "2. Dataset")
        fill(page, "tr-dataset-folder", str(folder))
        fill(page, "dataset-custom-tag", "zx_band")
        press(page, "tr-dataset-scan")
        expect(page.locator("#tr-songs-summary")).to_contain_text("3 songs")
        expect(page.locator("#tr-songs-summary")).to_contain_text("2 labeled")
        expect(page.locator("#tr-songs-problems")).to_contain_text("1 file skipped")
        page.get_by_test_id("cell-2-1").click()
        expect(page.locator("#tr-song-title")).to_contain_text("track 3.wav")
        expect(box(page, "tr-song-caption")).to_have_value("")
        fill(page, "tr-song-caption", "a lively piece, written down by hand")
        press(page, "tr-song-save")
        expect(page.locator("#tr-song-caption")).to_contain_text("written by you")
        expect(page.locator("#tr-songs-summary")).to_contain_text("3 labeled")
    return folder


@pytest.fixture(scope="module")
def tensors(browser: Browser, site: Site, songs: Path) -> Path:
    """The songs are encoded."""
    with visit(browser, site) as page:
        tab(page, "3. Preprocess")
        fill(page, "preprocess-out", "datasets/band")
        press(page, "tr-preprocess-start")
        wait_for_state(page, "tr-preprocess", "done")
        expect(page.locator("#tr-preprocess-status")).to_contain_text("3 of 3 songs ready")
    return site.workspace / "datasets" / "band"


@pytest.fixture(scope="module")
def stopped_run(browser: Browser, site: Site, tensors: Path) -> str:
    """Training is begun, the page reloaded while it goes, a second page opened, then it is stopped."""
    with visit(browser, site) as page:
        tab(page, "4. Train")
        expect(page.locator("#tr-train-facts")).to_contain_text("3 songs, trigger word zx_band")
        page.locator("#samples-advanced > button").click()
        page.locator("#samples-enabled input").check()
        fill(page, "samples-prompt", "calm synthesiser")
        fill(page, "samples-duration-s", "3")
        fill(page, "samples-strengths", "1.0")
        fill(page, "training-max-epochs", "5000")
        press(page, "tr-train-start")
        run = wait_for_state(page, "tr-train", "running")
        expect(page.locator("#tr-train-loss svg")).to_be_visible(timeout=120_000)
        expect(page.locator("#tr-train-status")).to_contain_text(re.compile(r"Epoch \d+ of 5000 \(step \d+/\d+\)"))
        open_page(page, site)  # a reload
        tab(page, "4. Train")
        assert wait_for_state(page, "tr-train", "running").split(":")[0] == run.split(":")[0]
        with visit(browser, site) as second:
            tab(second, "4. Train")
            assert wait_for_state(second, "tr-train", "running").split(":")[0] == run.split(":")[0]
            expect(second.locator("#tr-train-start")).to_be_disabled()
            press(second, "tr-train-pause")
            wait_for_state(page, "tr-train", "paused")
            press(second, "tr-train-pause")
            wait_for_state(page, "tr-train", "running")
        press(page, "tr-train-stop")
        wait_for_state(page, "tr-train", "stopped")
        expect(page.locator("#tr-train-status")).to_contain_text("Everything is saved in")
    return run.split(":")[0]


@pytest.fixture(scope="module")
def adapter(browser: Browser, site: Site, stopped_run: str) -> Path:
    """The stopped run is resumed and completes."""
    run = Path(stopped_run)
    latest_checkpoint = max(int(re.findall(r"\d+", folder.name)[0]) for folder in (run / "checkpoints").glob("epoch_*"))
    with visit(browser, site) as page:
        tab(page, "4. Train")
        page.get_by_role("button", name="Resume from Checkpoint").click()
        expect(box(page, "tr-resume-run")).to_have_value(run.name)
        fill(page, "tr-resume-epochs", str(latest_checkpoint + 3))
        press(page, "tr-resume-start")
        wait_for_state(page, "tr-train", "done")
        expect(page.locator("#tr-train-status")).to_contain_text(f"{latest_checkpoint + 3} epochs")
    return run / "final" / "adapter"


def test_every_tab_is_shown_without_torch(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not needed')")
    with serve(tmp_path / "work", PYTHONPATH=str(tmp_path)) as site:
        show_every_tab(browser, site)


def test_the_page_opens_without_external_requests(browser: Browser, site: Site, empty_page: None) -> None:
    with visit(browser, site) as page:
        expect(page).to_have_title("ACE-Step trainer")


def test_entered_values_survive_a_reload(browser: Browser, site: Site, songs: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "2. Dataset")
        expect(box(page, "tr-dataset-folder")).to_have_value(str(songs))
        expect(box(page, "dataset-custom-tag")).to_have_value("zx_band")
        expect(box(page, "tr-song-caption")).to_have_value("calm synthesiser piece 1")


def test_a_song_can_be_played(browser: Browser, site: Site, songs: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "2. Dataset")
        expect(page.locator("#tr-song-player")).to_contain_text("0:04")
        page.locator("#tr-song-player").get_by_label("Play", exact=True).click()
        expect(page.locator("#tr-song-player").get_by_label("Pause", exact=True)).to_be_visible()


def test_a_bulk_edit_is_previewed_applied_and_undone(browser: Browser, site: Site, songs: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "2. Dataset")
        page.get_by_role("button", name="Edit many songs").click()
        page.locator("#bulk-action input").first.click()
        page.get_by_role("option", name="replace").click()
        fill(page, "bulk-find", "calm")
        fill(page, "bulk-text", "quiet")
        press(page, "tr-bulk-preview")
        expect(page.locator("#tr-bulk-shown")).to_contain_text("2 songs would change")
        press(page, "tr-bulk-apply")
        expect(page.locator("#tr-bulk-shown")).to_contain_text("2 songs changed")
        expect(page.locator("#tr-songs-table")).to_contain_text("quiet synthesiser")
        press(page, "tr-bulk-undo")
        expect(page.locator("#tr-songs-table")).to_contain_text("calm synthesiser")


def test_recommended_epochs_are_applied_after_preprocessing_and_never_replace_what_is_typed(
    browser: Browser, site: Site, tensors: Path
) -> None:
    with visit(browser, site) as page:
        tab(page, "4. Train")
        expect(box(page, "training-max-epochs")).to_have_value("1500")
        expect(box(page, "training-save-every-n-epochs")).to_have_value("200")
        fill(page, "training-max-epochs", "12")
        expect(page.locator("#tr-train-recommended")).to_contain_text("Recommended for 3 songs: 1500 epochs")
        expect(page.locator("#tr-train-recommended")).to_contain_text("You entered Max Epochs")
        open_page(page, site)  # a reload
        tab(page, "4. Train")
        press(page, "tr-train-load")
        press(page, "tr-train-use-epochs")
        expect(box(page, "training-max-epochs")).to_have_value("1500")
        press(page, "tr-epochs-undo")
        expect(box(page, "training-max-epochs")).to_have_value("12")
        press(page, "tr-train-use-epochs")
        expect(box(page, "training-max-epochs")).to_have_value("1500")


def test_every_adapter_type_can_be_chosen_with_a_preset_and_undo_brings_back_what_was_typed(
    browser: Browser, site: Site, tensors: Path
) -> None:
    with visit(browser, site) as page:
        tab(page, "4. Train")
        fill(page, "lora-r", "9")
        choose(page, "tr-train-preset", "vram_12gb")
        expect(box(page, "lora-r")).to_have_value("32")
        expect(page.locator("#tr-train-changes")).to_contain_text("Replaced what you entered: Rank (9 → 32)")
        for label, kind, field, value in (
            ("LoKr", "lokr", "training-learning-rate", "0.0003"),
            ("LoHa", "loha", "loha-r", "16"),
            ("DoRA", "dora", "dora-r", "32"),
            ("LoRA", "lora", "training-learning-rate", "0.0001"),
        ):
            choose(page, "training-adapter-type", label)
            expect(page.locator(f"#tr-train-{kind}")).to_be_visible()
            expect(box(page, field)).to_have_value(value)
            expect(box(page, "training-adapter-type")).to_have_value(label)
        fill(page, "lora-r", "9")
        choose(page, "tr-train-preset", "recommended")
        expect(box(page, "lora-r")).to_have_value("64")
        press(page, "tr-train-undo")
        expect(box(page, "lora-r")).to_have_value("9")
        expect(box(page, "tr-train-preset")).to_have_value("vram_12gb")
        choose(page, "tr-train-preset", "recommended")
        expect(box(page, "lora-r")).to_have_value("64")
        choose(page, "tr-train-preset", "Custom")


def test_an_invalid_value_is_reported_at_its_field(browser: Browser, site: Site, tensors: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "4. Train")
        before = box(page, "training-max-epochs").input_value()
        fill(page, "training-max-epochs", "0")
        press(page, "tr-train-start")
        expect(page.locator("#training-max-epochs")).to_contain_text("Must be greater than or equal to 1")
        fill(page, "training-max-epochs", before)


def test_the_memory_estimate_follows_the_settings(browser: Browser, site: Site, tensors: Path) -> None:
    def activations() -> str:
        return re.findall(r"Activations[\d.]+ GB", page.locator("#tr-train-memory").text_content() or "")[0]

    with visit(browser, site) as page:
        tab(page, "4. Train")
        expect(page.locator("#tr-train-memory [data-fits]")).to_have_attribute("data-fits", "True")
        before, batch = activations(), box(page, "training-batch-size").input_value()
        fill(page, "training-batch-size", "256")
        expect(page.locator("#tr-train-memory")).not_to_contain_text(before)
        assert activations() > before
        fill(page, "training-batch-size", batch)
        expect(page.locator("#tr-train-memory")).to_contain_text(before)


def test_ranks_of_a_sensitivity_analysis_are_applied(browser: Browser, site: Site, adapter: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "4. Train")
        page.locator("#tr-sensitivity > button").click()
        fill(page, "estimate-batches", "2")
        press(page, "tr-estimate-start")
        wait_for_state(page, "tr-estimate", "done")
        expect(page.locator("#tr-estimate-status table")).to_contain_text("self_attn")
        press(page, "tr-estimate-use")
        page.locator("#lora-advanced > button").click()
        expect(box(page, "lora-ranks")).to_have_value(re.compile("self_attn"))
        fill(page, "lora-ranks", "")


def until_kept(site: Site, key: str, value: Any) -> None:
    """Wait until the program has heard of a value that was typed, as it has when a person goes on to a button."""
    end = time.monotonic() + 40
    path = site.workspace / "profiles" / ".pages" / "trainer.json"
    while json.loads(path.read_text())["values"].get(key) != value:
        assert time.monotonic() < end
        time.sleep(0.1)
    time.sleep(1)  # leaving the field tells it once more


def test_a_profile_restores_all_settings_and_songs(browser: Browser, site: Site, tensors: Path, tmp_path: Path) -> None:
    with visit(browser, site) as page:
        page.locator("#tr-profiles > button").click()
        fill(page, "tr-profile-path", str(tmp_path / "outside.json"))
        press(page, "tr-profile-save")
        expect(page.get_by_test_id("toast-body")).to_contain_text("is outside")
        page.get_by_test_id("toast-close").click()
        fill(page, "tr-profile-path", "profiles/band.json")
        press(page, "tr-profile-save")
        expect(page.locator("#tr-profile-status")).to_contain_text("band.json")
        press(page, "tr-sidestep-export")
        expect(page.locator("#tr-profile-status")).to_contain_text("my_sidestep.json")
        tab(page, "4. Train")
        before = box(page, "training-max-epochs").input_value()
        fill(page, "training-max-epochs", "7")
        until_kept(site, "training.max_epochs", 7)
        press(page, "tr-profile-load")
        expect(page.locator("#tr-profile-status")).to_contain_text("3 songs")
        expect(box(page, "training-max-epochs")).to_have_value(before)
        fill(page, "training-max-epochs", "7")
        until_kept(site, "training.max_epochs", 7)
        fill(page, "tr-sidestep-path", "profiles/my_sidestep.json")
        press(page, "tr-sidestep-import")
        expect(page.locator("#tr-profile-status")).to_contain_text("Imported my_sidestep")
        expect(box(page, "training-max-epochs")).to_have_value(before)
        tab(page, "2. Dataset")
        expect(box(page, "dataset-custom-tag")).to_have_value("zx_band")
        expect(page.locator("#tr-songs-summary")).to_contain_text("3 labeled")
    assert not (tmp_path / "outside.json").exists()


def test_a_value_typed_right_before_a_profile_is_loaded_does_not_replace_that_of_the_profile(
    browser: Browser, site: Site, tensors: Path
) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        """Delay the message that tells the program about the typed value."""
        if (route.request.post_data or "").startswith('{"data":[77777,'):
            held.append(route)
        else:
            route.fallback()

    with visit(browser, site) as page:
        page.locator("#tr-profiles > button").click()
        fill(page, "tr-profile-path", "profiles/race.json")
        press(page, "tr-profile-save")
        expect(page.locator("#tr-profile-status")).to_contain_text("race.json")
        tab(page, "4. Train")
        before = box(page, "training-max-epochs").input_value()
        page.route("**/gradio_api/run/**", hold)
        fill(page, "training-max-epochs", "77777")
        press(page, "tr-profile-load")
        expect(page.locator("#tr-profile-status")).to_contain_text("Loaded")
        expect(box(page, "training-max-epochs")).to_have_value(before)
        assert held
        for route in held:
            route.continue_()
        page.unroute("**/gradio_api/run/**")
        open_page(page, site)  # shows what the program has saved
        tab(page, "4. Train")
        expect(box(page, "training-max-epochs")).to_have_value(before)


def test_a_resumed_run_finishes(adapter: Path) -> None:
    assert (adapter / "adapter_model.safetensors").is_file()


def test_the_newest_samples_can_be_played_where_the_run_is(browser: Browser, site: Site, adapter: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "4. Train")
        expect(page.locator("#tr-train-samples")).to_contain_text("Latest samples: epoch")
        expect(page.locator("#tr-train-samples")).to_contain_text("strength 1")
        page.locator("#tr-train-samples audio").first.evaluate("player => player.play()")
        page.wait_for_function("document.querySelector('#tr-train-samples audio').currentTime > 0.2")


def choose(page: Page, elem_id: str, option: str) -> None:
    """Select an option of a dropdown."""
    box(page, elem_id).click()
    page.get_by_role("option", name=option, exact=True).click()


def test_a_start_that_cannot_work_shows_why_and_what_helps_and_leaves_no_run(
    browser: Browser, site: Site, adapter: Path
) -> None:
    record = make_record(9, 4, seed=0, filename="a.wav", encoder_fingerprint="0" * 16, model_checkpoint="other")
    write_record(site.workspace / "datasets" / "foreign" / "a.pt", record)
    before = sorted((site.workspace / "lora_output").iterdir())
    with visit(browser, site) as page:
        tab(page, "4. Train")
        fill(page, "tr-train-tensors", "datasets/foreign")
        press(page, "tr-train-start")
        expect(page.locator("#tr-train-rejected")).to_contain_text("Training was not started")
        expect(page.locator("#tr-train-rejected")).to_contain_text("was preprocessed with other")
        expect(page.get_by_test_id("toast-body")).to_contain_text("was preprocessed with other")
        page.get_by_test_id("toast-close").click()
        expect(page.locator("#tr-train-start")).to_be_enabled()
        press(page, "tr-train-recover")
        expect(page.get_by_role("tab", name="3. Preprocess")).to_have_attribute("aria-selected", "true")
        tab(page, "4. Train")
        fill(page, "tr-train-tensors", "datasets/band")
        until_kept(site, "train.tensors", "datasets/band")
    assert sorted((site.workspace / "lora_output").iterdir()) == before


def test_the_run_to_resume_is_one_that_can_be_resumed_and_stays_selected(
    browser: Browser, site: Site, adapter: Path
) -> None:
    run, failed = adapter.parents[1], site.workspace / "lora_output" / "failed at once"
    write_job(failed, "train", TrainJob(tensor_dir=failed, checkpoint="none", out=failed))
    JobFolder(failed).events.emit(Failed(error="KeyError", message="m"))
    with visit(browser, site) as page:
        tab(page, "4. Train")
        page.get_by_role("button", name="Resume from Checkpoint").click()
        expect(box(page, "tr-resume-run")).to_have_value(run.name)
        expect(page.locator("#tr-resume-start")).to_be_enabled()
        choose(page, "tr-resume-run", "failed at once (nothing was saved yet)")
        expect(page.locator("#tr-resume-reason")).to_contain_text("cannot be resumed: nothing was saved yet")
        expect(page.locator("#tr-resume-start")).to_be_disabled()
        write_job(failed.with_name("another"), "train", TrainJob(tensor_dir=failed, checkpoint="none", out=failed))
        page.wait_for_timeout(5000)  # the list is looked up and polled
        expect(box(page, "tr-resume-run")).to_have_value("failed at once (nothing was saved yet)")
        choose(page, "tr-resume-run", run.name)
        expect(page.locator("#tr-resume-start")).to_be_enabled()
    for folder in (failed, failed.with_name("another")):
        shutil.rmtree(folder)


_PLAYER = (
    "[document.querySelector('#tr-compare-grid'), ...document.querySelectorAll('#tr-compare-grid *')]"
    ".map(element => element.player).find(Boolean)"
)


def test_switching_samples_keeps_the_playback_position(browser: Browser, site: Site, adapter: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "5. Listen")
        expect(page.locator("#tr-compare-grid")).to_contain_text("base model")
        first, second = (page.locator("#tr-compare-grid button[data-src]").nth(number) for number in (0, 1))
        first.click()
        page.wait_for_function(f"{_PLAYER}.currentTime > 0.8")
        page.keyboard.press("ArrowDown")
        expect(second).to_have_attribute("aria-pressed", "true")
        expect(first).to_have_attribute("aria-pressed", "false")
        page.wait_for_function(f"!{_PLAYER}.paused && {_PLAYER}.readyState > 2")
        assert page.evaluate(f"{_PLAYER}.currentTime") >= 0.8
        assert second.get_attribute("data-src") in page.evaluate(f"{_PLAYER}.src")
        page.keyboard.press("Space")
        page.wait_for_function(f"{_PLAYER}.paused")
        expect(page.locator("#tr-compare-grid .ac-now")).to_contain_text("Paused: epoch")


def test_a_blind_comparison_reveals_the_names_and_leads_to_the_export(
    browser: Browser, site: Site, adapter: Path
) -> None:
    with visit(browser, site) as page:
        tab(page, "5. Listen")
        expect(page.locator("#tr-compare-grid")).to_contain_text("base model")
        page.locator("#tr-compare-blind input").check()
        expect(page.locator("#tr-compare-grid")).to_contain_text("Version A")
        expect(page.locator("#tr-compare-grid")).not_to_contain_text(re.compile("base model|epoch|final"))
        page.get_by_role("button", name="Pick Version A").click()
        expect(page.locator("#tr-compare-grid")).to_contain_text("base model")
        expect(page.locator("#tr-compare-picked")).to_contain_text("Version A was")
        others = page.get_by_role("button", name=re.compile("Pick (epoch|final)"))
        if others.count():  # otherwise version A was the only checkpoint
            others.last.click()
            expect(page.locator("#tr-compare-picked")).to_contain_text(re.compile("Picked: (epoch|final)"))
        press(page, "tr-compare-export")
        expect(page.get_by_role("tab", name="6. Export")).to_have_attribute("aria-selected", "true")
        expect(box(page, "tr-export-adapter")).to_have_value(re.compile("epoch_|final"))


def test_audio_is_generated_with_the_adapter_and_played(browser: Browser, site: Site, adapter: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "5. Listen")
        expect(page.locator("#tr-listen-tag")).to_contain_text("zx_band")
        fill(page, "piece-prompt", "zx_band, calm synthesiser")
        fill(page, "piece-duration-s", "2")
        box(page, "listen-audio-format").click()
        page.get_by_role("option", name="opus").click()
        press(page, "tr-generate-start")
        wait_for_state(page, "tr-generate", "done")
        sound = page.locator("#tr-listen-generations audio").first
        expect(sound).to_have_attribute("src", re.compile(r"\.opus"))
        expect(page.locator("#tr-listen-generations")).to_contain_text("final at 1")
        sound.evaluate("player => player.play()")
        page.wait_for_function("document.querySelector('#tr-listen-generations audio').currentTime > 0.2")


def test_generations_of_several_checkpoints_are_compared(browser: Browser, site: Site, adapter: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "5. Listen")
        expect(page.locator("#tr-compare-grid")).to_contain_text("base model")
        fill(page, "piece-prompt", "zx_band, three at once")
        fill(page, "piece-duration-s", "1")
        page.locator("#tr-several > button").click()
        press(page, "tr-compare-start")
        wait_for_state(page, "tr-compare", "done")
        expect(page.locator("#tr-compare-grid thead")).to_contain_text("zx_band, three at once (1 s, seed 42)")
        assert page.locator("#tr-compare-grid button[data-src]").count() >= 5  # two samples, three pieces and more


def test_the_adapter_is_exported_for_another_program(browser: Browser, site: Site, adapter: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "6. Export")
        fill(page, "tr-export-path", "exports/band")
        press(page, "tr-export-start")
        expect(page.locator("#tr-export-result")).to_contain_text("Exported and verified")
        expect(page.locator("#tr-export-files")).to_contain_text("adapter_model")
    assert (site.workspace / "exports" / "band" / "adapter_model.safetensors").is_file()


def test_nothing_is_exported_outside_the_programs_folder(
    browser: Browser, site: Site, adapter: Path, tmp_path: Path
) -> None:
    with visit(browser, site) as page:
        tab(page, "6. Export")
        fill(page, "tr-export-path", str(tmp_path / "stolen"))
        press(page, "tr-export-start")
        expect(page.get_by_test_id("toast-body")).to_contain_text("is outside")
    assert not (tmp_path / "stolen").exists()


def test_the_adapter_is_merged_into_the_model(browser: Browser, site: Site, adapter: Path, tmp_path: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "6. Export")
        fill(page, "tr-merge-out", str(tmp_path / "stolen"))
        press(page, "tr-merge-start")
        expect(page.get_by_test_id("toast-body")).to_contain_text("is outside")
        page.get_by_test_id("toast-close").click()
        fill(page, "tr-merge-out", "checkpoints/acestep-v15-band")
        press(page, "tr-merge-start")
        wait_for_state(page, "tr-merge", "done")
        expect(page.locator("#tr-merge-status")).to_contain_text("weights changed")
        tab(page, "1. Service")  # its VAE and text encoder are outside the workspace, beside the base model
        choose(page, "tr-service-checkpoint", "acestep-v15-band")
        expect(page.locator("#tr-service-about")).to_contain_text(re.compile("acestep-v15-band: (complete|loaded)"))
        choose(page, "tr-service-checkpoint", "acestep-v15-tiny")
        expect(page.locator("#tr-service-about")).to_contain_text("acestep-v15-tiny: ")
    assert (site.workspace / "checkpoints" / "acestep-v15-band" / "config.json").is_file()
    assert not (tmp_path / "stolen").exists()


def test_the_run_is_listed_with_its_settings(browser: Browser, site: Site, adapter: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "Runs")
        expect(page.locator("#tr-runs-list")).to_contain_text("done")
        expect(page.locator("#tr-runs-about")).to_contain_text("Learning Rate")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_overflows_the_width_of_a_phone(browser: Browser, site: Site, adapter: Path, theme: str) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": theme, "is_mobile": True, "has_touch": True}
    with visit(browser, site, **phone) as page:
        assert page.evaluate("document.body.classList.contains('dark')") == (theme == "dark")
        for name in ALL_TABS:
            tab(page, name)
            expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_the_browser_gets_copies_and_never_a_user_file(site: Site, songs: Path, adapter: Path) -> None:
    outside = [
        songs / "track 1.wav",
        songs,
        adapter / "adapter_config.json",
        next(site.workspace.glob("lora_output/*/samples/*/*.wav")),
        next(site.workspace.glob("datasets/band/*.pt")),
        Path("/etc/hostname"),
        site.workspace / "server.log",
    ]
    tricks = [
        f"{site.workspace}/cache/../server.log",
        f"{site.workspace}/cache/%2e%2e/server.log",
        f"{site.workspace}/cache/..%2fserver.log",
        f"{site.workspace}/cache/preview/../../server.log",
        "C:\\Windows\\win.ini",
        "D:/music.wav",
        "//server/share/music.wav",
        "\\\\server\\share\\music.wav",
        "file:///etc/hostname",
        "http://127.0.0.1:1/music.wav",
    ]
    preview = site.workspace / "cache" / "preview"
    (preview / "link.wav").symlink_to("/etc/hostname")
    (preview / "folder").symlink_to(songs)
    links = [f"{preview}/link.wav", f"{preview}/folder/track 1.wav"]
    for path in [*map(str, outside), *tricks, *links]:
        assert httpx2.get(f"{site.url}/gradio_api/file={path}", trust_env=False).status_code in (403, 404), path
    copy = next((site.workspace / "cache" / "preview").glob("[0-9a-f]*.wav"))
    assert httpx2.get(f"{site.url}/gradio_api/file={copy}", trust_env=False).status_code == 200


def test_health_reports_what_is_in_memory(site: Site, adapter: Path) -> None:
    answer = httpx2.get(f"{site.url}/health", trust_env=False).json()
    assert answer["status"] == "ok"
    assert answer["llm_loaded"] is False
    assert isinstance(answer["models_loaded"], bool)


@pytest.fixture(scope="module")
def client(site: Site) -> Iterator[Client]:
    client = Client(site.url, verbose=False, analytics_enabled=False)
    yield client
    client.close()


def ask(client: Client, name: str, *values: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.predict(*values, api_name=f"/{name}")
    return answer


def until_done(client: Client, run_id: str) -> dict[str, Any]:
    end = time.monotonic() + 120
    while (answer := ask(client, "status", run_id))["state"] in ("running", "stopping"):
        assert time.monotonic() < end, answer
        time.sleep(0.3)
    return answer


def test_only_the_documented_functions_are_in_the_api(client: Client) -> None:
    shown = client.view_api(print_info=False, return_format="dict")["named_endpoints"]
    assert set(shown) == {
        "/health",
        "/status",
        "/stop",
        "/list_runs",
        "/samples",
        "/check_dataset",
        "/make_dataset",
        "/start_preprocessing",
        "/start_training",
        "/start_estimating",
        "/start_generating",
        "/start_merging",
        "/export",
    }


def test_the_whole_workflow_runs_through_the_api(
    client: Client, site: Site, model: Path, songs: Path, tensors: Path, adapter: Path
) -> None:
    assert ask(client, "check_dataset", str(songs))["counts"]["songs"] == 3
    dataset = ask(client, "make_dataset", str(songs), "by program", "zx_band")["dataset"]
    job = {"source": dataset, "checkpoint": str(model), "out": "datasets/by_program"}
    encoded = until_done(client, ask(client, "start_preprocessing", job)["run_id"])
    assert encoded["result"]["ready"] == 3  # the caption that was typed on the page is in the label files
    settings = {
        "tensor_dir": "datasets/by_program",
        "checkpoint": str(model),
        "out": "lora_output/by_program",
        "max_epochs": 2,
    }
    run = ask(client, "start_training", {**settings, "lora.r": 4, "lora.alpha": 4})["run_id"]
    assert ask(client, "start_training", settings)["error"]["code"] == "JobBusy"
    trained = until_done(client, run)
    assert (trained["state"], trained["result"]["epochs"]) == ("done", 2)
    assert run in [each["run_id"] for each in ask(client, "list_runs")["runs"]]
    request = {"prompt": "zx_band", "duration_s": 1}
    final = str(site.workspace / run / "final" / "adapter")
    piece = ask(client, "start_generating", {"checkpoint": str(model), "adapter": final, "request": request})
    assert until_done(client, piece["run_id"])["state"] == "done"
    assert [Path(each["audio"]).is_file() for each in ask(client, "samples", run)["samples"]] == [True]
    made = ask(client, "export", run, "final", "acestep", "")
    assert (Path(made["adapter"]) / "adapter_model.safetensors").is_file()
    merging = {"checkpoint": str(model), "adapter": final, "out": "checkpoints/by_program"}
    assert until_done(client, ask(client, "start_merging", merging)["run_id"])["result"]["merged"] > 0
    measuring = {"tensor_dir": "datasets/by_program", "checkpoint": str(model), "batches": 1}
    assert until_done(client, ask(client, "start_estimating", measuring)["run_id"])["result"]["modules"] > 0


def test_runs_are_overlaid_in_a_chart_and_one_is_deleted_by_name(browser: Browser, site: Site, adapter: Path) -> None:
    with visit(browser, site) as page:
        tab(page, "Runs")
        expect(page.locator("#tr-runs-list")).to_contain_text("by_program")
        page.locator("#tr-runs-chosen input").click()
        page.get_by_role("option", name="my_lora_dataset").click()
        expect(page.locator("#tr-runs-curves polyline")).to_have_count(2)
        expect(page.locator("#tr-runs-about")).to_contain_text("Max Epochs")
        expect(page.locator("#tr-runs-sounds")).to_contain_text("my_lora_dataset, epoch")
        page.keyboard.press("Escape")
        page.locator("#tr-runs-delete > button").click()
        fill(page, "tr-runs-confirm", "by_progra")
        press(page, "tr-runs-delete-start")
        expect(page.get_by_test_id("toast-body")).to_contain_text("no run 'by_progra'")
        fill(page, "tr-runs-confirm", "by_program")
        press(page, "tr-runs-delete-start")
        expect(page.locator("#tr-runs-list")).not_to_contain_text("by_program")
    assert not (site.workspace / "lora_output" / "by_program").exists()
    assert adapter.is_dir()


def test_api_errors_describe_the_problem(client: Client, tmp_path: Path, adapter: Path) -> None:
    run = "lora_output/my_lora_dataset"
    assert "epohcs" in ask(client, "start_training", {"epohcs": 3})["error"]["message"]
    assert ask(client, "export", run, "final", "acestep", str(tmp_path / "out"))["error"]["code"] == "StorageError"
    assert ask(client, "export", run, "../../..", "acestep", "")["error"]["code"] == "JobError"
    assert ask(client, "export", run, "..", "acestep", "")["error"]["code"] == "JobError"
    merging = {"checkpoint": "none", "adapter": str(adapter), "out": str(tmp_path / "out")}
    assert ask(client, "start_merging", merging)["error"]["code"] == "StorageError"
    again = {"tensor_dir": "datasets/band", "checkpoint": "none", "out": run}
    assert ask(client, "start_training", again)["error"]["code"] == "TrainingError"
    assert ask(client, "status", str(tmp_path))["error"]["code"] == "JobError"
    assert ask(client, "stop", run)["error"]["code"] == "JobError"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def open_tabs(browser: Browser, site: Site, adapter: Path) -> Iterator[Page]:
    """One page for the tests that show the messages of each tab."""
    with visit(browser, site) as page:
        yield page


def expect_error(page: Page, message: str) -> None:
    """Wait for an error message and close it."""
    expect(page.locator(".toast-body.error")).to_contain_text(message)
    page.locator(".toast-body.error").get_by_test_id("toast-close").click()
    expect(page.locator(".toast-body.error")).to_have_count(0)


def expect_note(page: Page, message: str) -> None:
    expect(page.locator(".toast-body.info")).to_contain_text(message)


def test_messages_of_the_profiles_arrive(open_tabs: Page) -> None:
    open_tabs.locator("#tr-profiles > button").click()
    fill(open_tabs, "tr-profile-path", "profiles/none.json")
    press(open_tabs, "tr-profile-load")
    expect_error(open_tabs, "profiles/none.json")
    fill(open_tabs, "tr-profile-path", "profiles/messages.json")
    press(open_tabs, "tr-profile-save")
    expect(open_tabs.locator("#tr-profile-status")).to_contain_text("messages.json")


def test_messages_of_1_service_arrive(open_tabs: Page, model: Path) -> None:
    tab(open_tabs, "1. Service")
    fill(open_tabs, "tr-service-folder", "/nowhere")
    press(open_tabs, "tr-service-look")
    expect_error(open_tabs, "there is no folder /nowhere")
    expect(box(open_tabs, "tr-service-folder")).to_have_value("/nowhere")
    fill(open_tabs, "tr-service-folder", str(model))
    press(open_tabs, "tr-service-look")
    expect_note(open_tabs, "Found")


def test_messages_of_2_dataset_arrive(open_tabs: Page) -> None:
    tab(open_tabs, "2. Dataset")
    open_tabs.locator("#tr-load > button").click()
    fill(open_tabs, "tr-load-path", "datasets/none.json")
    press(open_tabs, "tr-load-start")
    expect_error(open_tabs, "datasets/none.json")
    fill(open_tabs, "tr-save-path", "datasets/messages.json")
    press(open_tabs, "tr-save")
    expect_note(open_tabs, "datasets/messages.json")


def test_messages_of_3_preprocess_arrive(open_tabs: Page) -> None:
    tab(open_tabs, "3. Preprocess")
    fill(open_tabs, "tr-preprocess-source", "/nowhere.json")
    press(open_tabs, "tr-preprocess-start")
    expect(open_tabs.locator("#tr-preprocess-status")).to_contain_text("/nowhere.json")
    expect(open_tabs.locator("#tr-preprocess-start")).to_be_enabled()
    fill(open_tabs, "tr-preprocess-source", "")
    press(open_tabs, "tr-preprocess-start")
    expect(open_tabs.locator("#tr-preprocess-status")).to_contain_text("already up to date")


def test_messages_of_4_train_arrive(open_tabs: Page) -> None:
    tab(open_tabs, "4. Train")
    fill(open_tabs, "tr-train-tensors", "/nowhere")
    press(open_tabs, "tr-train-load")
    expect_error(open_tabs, "/nowhere")
    expect(box(open_tabs, "tr-train-tensors")).to_have_value("/nowhere")
    fill(open_tabs, "tr-train-tensors", "datasets/band")
    press(open_tabs, "tr-train-load")
    expect(open_tabs.locator("#tr-train-facts")).to_contain_text("3 songs")
    press(open_tabs, "tr-train-suggest")
    expect_note(open_tabs, "GB")


def test_messages_of_5_listen_arrive(open_tabs: Page) -> None:
    tab(open_tabs, "5. Listen")
    fill(open_tabs, "piece-duration-s", "0")
    press(open_tabs, "tr-generate-start")
    expect(open_tabs.locator(".toast-body.warning")).to_contain_text("Some values are invalid")
    fill(open_tabs, "piece-duration-s", "1")
    press(open_tabs, "tr-generate-start")
    expect_note(open_tabs, "Generating.")
    wait_for_state(open_tabs, "tr-generate", "done")


def test_messages_of_6_export_arrive(open_tabs: Page, adapter: Path, tmp_path: Path) -> None:
    tab(open_tabs, "6. Export")
    fill(open_tabs, "tr-export-path", "exports/messages")
    fill(open_tabs, "tr-export-adapter", str(tmp_path / "typed"))
    press(open_tabs, "tr-export-start")
    expect_error(open_tabs, "typed")
    expect(box(open_tabs, "tr-export-adapter")).to_have_value(str(tmp_path / "typed"))
    fill(open_tabs, "tr-export-adapter", str(adapter))
    fill(open_tabs, "tr-export-path", str(tmp_path))
    press(open_tabs, "tr-export-start")
    expect_error(open_tabs, "is outside")
    fill(open_tabs, "tr-export-path", "exports/messages")
    press(open_tabs, "tr-export-start")
    expect_note(open_tabs, "Exported.")


def test_messages_of_the_runs_arrive(open_tabs: Page) -> None:
    tab(open_tabs, "Runs")
    open_tabs.locator("#tr-runs-delete > button").click()
    fill(open_tabs, "tr-runs-confirm", "none")
    press(open_tabs, "tr-runs-delete-start")
    expect_error(open_tabs, "no run 'none'")
    expect(box(open_tabs, "tr-runs-confirm")).to_have_value("none")
    press(open_tabs, "tr-runs-again")
    expect_note(open_tabs, "Copied the settings")


def test_messages_of_the_system_arrive(open_tabs: Page) -> None:
    tab(open_tabs, "System")
    press(open_tabs, "tr-download-start")
    expect_error(open_tabs, "No model is selected")
    press(open_tabs, "tr-system-check")
    expect(open_tabs.locator("#tr-system-checks table")).to_be_visible()
