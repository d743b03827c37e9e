"""A captioner service that is registered at run time works everywhere without further edits."""

from __future__ import annotations

import gradio as gr
import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from acestep.captioning.api_keys import find_key, has_key, remember_key, typed_keys_as_environment
from acestep.captioning.backends import CAPTIONERS, TRANSCRIBERS
from acestep.captioning.configs import CaptionJob, backend_names, use_backend
from acestep.captioning.costs import cost_notes
from acestep.captioning.labeling_plan import make_plan
from acestep.captioning.schema import Description, Lyrics
from acestep.captioning.time_estimate import backends_without_typical_time, list_steps
from acestep.cli.options import config_command
from acestep.core.config import choices, fields
from acestep.core.errors import ConfigError
from acestep.core.event_log import EventLog
from acestep.core.events import Finished, LogMessage
from acestep.core.jobs import run_job, write_job
from acestep.dataset.scan import scan_folder


class ToyService:
    """Returns fixed captions and lyrics in one request."""

    name, needs_audio = "toy-1", False

    def describe(self, song, *, with_lyrics, stop):
        return Description(caption=f"A toy song about {song.path.stem}.", lyrics=Lyrics("[Verse]\nToys", "en"))

    def transcribe(self, song, *, stop):
        return Lyrics("[Verse]\nToys", "en")

    def close(self):
        pass


def toy(config, report):
    return ToyService()


@pytest.fixture
def toy_service():
    entry = {
        "target": f"{__name__}:toy",
        "label": "Online: Toy",
        "help": "Sends each song to a toy.",
        "service": "Toy Service",
        "key_variables": ("TOY_KEY",),
        "url": "https://toy.example",
        "with_lyrics": True,
    }
    for registry in (CAPTIONERS, TRANSCRIBERS):
        registry.register("toy", **entry)
    yield CAPTIONERS["toy"]
    for registry in (CAPTIONERS, TRANSCRIBERS):
        registry.unregister("toy")
    remember_key("toy", "")


@pytest.fixture
def song_folder(tmp_path):
    folder = tmp_path / "songs"
    folder.mkdir()
    soundfile.write(folder / "short.wav", np.random.default_rng(0).standard_normal(32_000) * 0.1, 16_000)
    return folder


def test_the_config_accepts_it_only_while_it_is_registered(toy_service, tmp_path):
    assert CaptionJob(audio_dir=tmp_path, captioner="toy", transcriber="toy").captioner == "toy"
    assert choices(fields(CaptionJob)["captioner"])["toy"] == "Online: Toy"
    assert "toy" in backend_names()
    config = CaptionJob(audio_dir=tmp_path)
    use_backend(config, "toy")
    assert config.captioner == "toy"
    with pytest.raises(ConfigError, match="captioner must be"):
        use_backend(config, "no such service")


def test_the_command_line_help_lists_it(toy_service):
    app = typer.Typer()
    app.callback()(lambda: None)

    @config_command(app, CaptionJob, arguments=("audio_dir",), exclude=("only",))
    def caption(config: CaptionJob) -> None:
        """Caption."""

    text = CliRunner().invoke(app, ["caption", "--help"], env={"COLUMNS": "200"}).output
    assert "gemini|toy|none" in text


def test_missing_attributes_are_shown_as_unknown(toy_service, song_folder):
    config = CaptionJob(audio_dir=song_folder, captioner="toy", transcriber="toy", measure=False)
    plan = make_plan(config)
    [note] = cost_notes(plan, config)
    assert note.startswith("Toy Service: price unknown")
    assert backends_without_typical_time(config) == [toy_service]
    assert all(step.expected_s > 0 for step in list_steps(plan, config))


def test_its_key_comes_from_the_page_or_the_environment(toy_service, monkeypatch):
    monkeypatch.delenv("TOY_KEY", raising=False)
    assert not has_key(toy_service)
    monkeypatch.setenv("TOY_KEY", "from-environment")
    assert find_key(toy_service) == "from-environment"
    remember_key("toy", "typed")
    assert find_key(toy_service) == "typed"
    assert typed_keys_as_environment()["TOY_KEY"] == "typed"


def test_the_page_lists_it_with_a_key_field_and_its_requirements(toy_service, tmp_path, monkeypatch):
    from acestep.ui.captioner.app import build
    from acestep.ui.captioner.app_state import AppState
    from acestep.ui.captioner.engine_tab import _needs
    from acestep.ui.workspace import Workspace

    monkeypatch.delenv("TOY_KEY", raising=False)
    page = build(AppState(Workspace(tmp_path)))
    widgets = {block.elem_id: block for block in page.blocks.values() if isinstance(block, gr.components.Component)}
    for field in ("captioner", "transcriber"):
        assert ("Online: Toy", "toy") in widgets[f"caption-{field}"].choices
    assert widgets["cp-key-toy"].label == "Toy Service key"
    shown = _needs(CaptionJob(audio_dir=tmp_path), "captioner", "toy")
    assert "toy.example" in shown
    assert "TOY_KEY" in shown


def test_a_job_labels_a_song_through_it(toy_service, song_folder, tmp_path):
    config = CaptionJob(audio_dir=song_folder, captioner="toy", transcriber="toy", measure=False)
    write_job(tmp_path / "run", "caption", config)
    last = run_job(tmp_path / "run")
    assert isinstance(last, Finished)
    assert last.result["described"] == last.result["transcribed"] == 1
    [sample] = scan_folder(song_folder).dataset.samples
    assert (sample.caption, sample.lyrics) == ("A toy song about short.", "[Verse]\nToys")
    assert sample.sources["caption"] == "toy-1"
    events, _ = EventLog(tmp_path / "run" / "events.jsonl").read()
    assert any("price unknown" in event.message for event in events if isinstance(event, LogMessage))
