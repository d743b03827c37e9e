"""Small things that pages are made of, without a browser: the grid of sounds, curves, the words about memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from acestep.adapters.configs import LoRAConfig
from acestep.training.configs import TrainingConfig, TrainJob
from acestep.training.memory.advice import advise
from acestep.training.memory.automatic import choose
from acestep.training.memory.estimate import GIB, estimate
from acestep.training.memory.spec import FAMILIES, memory_spec
from acestep.training.parsing import set_value
from acestep.ui import html
from acestep.ui.chart import Series, line_chart
from acestep.ui.trainer.app_state import AppState
from acestep.ui.trainer.audio_clips import BASE_MODEL, latest_previews, previews_of, source_of, strengths
from acestep.ui.trainer.audio_grid import GridRow, render_grid
from acestep.ui.trainer.memory_panel import Forecast, forecast_html
from acestep.ui.workspace import Workspace


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))


def write_noise(path: Path, level: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, level * np.random.default_rng(0).uniform(-1, 1, (48_000, 2)), 48_000)
    return path


def gains(page: str) -> list[float]:
    return [float(gain) for gain in re.findall(r'data-gain="([\d.]+)"', page)]


def test_louder_sounds_are_turned_down_to_the_quietest(tmp_path: Path) -> None:
    loud, quiet = write_noise(tmp_path / "loud.wav", 0.8), write_noise(tmp_path / "quiet.wav", 0.2)
    rows = [GridRow("loud", "", [loud]), GridRow("quiet", "", [quiet])]
    assert gains(render_grid(["a"], rows, matched=True)) == pytest.approx([0.25, 1.0], abs=0.01)
    assert gains(render_grid(["a"], rows, matched=False)) == [1.0, 1.0]


def test_silence_does_not_silence_the_others(tmp_path: Path) -> None:
    rows = [
        GridRow(name, "", [write_noise(tmp_path / f"{name}.wav", level)]) for name, level in (("a", 0.5), ("b", 0.0))
    ]
    assert gains(render_grid(["x"], rows, matched=True)) == [1.0, 1.0]


def test_an_unreadable_audio_file_leaves_its_cell_empty(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"nothing")
    page = render_grid(["a", "b"], [GridRow("x", "x", [tmp_path / "broken.wav", tmp_path / "gone.wav"])], matched=True)
    assert page.count('class="ac-none"') == 2


def test_names_and_requests_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = '<img src=x onerror=alert(1)>"'
    page = render_grid([evil], [GridRow(evil, evil, [write_noise(tmp_path / "a.wav", 0.5)])], matched=True, picked=evil)
    page += line_chart([Series(evil, [(0, 1.0), (1, 2.0)]), Series("other", [(0, 1.0)])], evil, evil)
    assert "<img" not in page
    assert 'onerror=alert(1)>"' not in page


def test_previews_of_a_run_are_ordered_from_the_base_model_to_the_last_epoch(tmp_path: Path) -> None:
    for epoch, strength in ((20, 1.0), (0, 0.0), (100, 0.5), (100, 1.0)):
        name = f"strength_{strength:.2f}".replace(".", "_")
        path = write_noise(tmp_path / "samples" / f"epoch_{epoch}" / f"{name}.wav", 0.5)
        facts = {"epoch": epoch, "step": 1, "strength": strength, "prompt": "calm", "seed": 1, "duration_s": 1.0}
        path.with_suffix(".json").write_text(json.dumps(facts))
    write_noise(tmp_path / "samples" / "epoch_7" / "strength_1_00.wav", 0.5)  # without a word about it
    found = previews_of(tmp_path)
    assert [(sound.source, sound.strength) for sound in found] == [
        (BASE_MODEL, 0.0),
        ("epoch 20", 1.0),
        ("epoch 100", 0.5),
        ("epoch 100", 1.0),
    ]
    assert [sound.strength for sound in latest_previews(tmp_path)] == [0.5, 1.0]
    assert strengths(found) == [0.5, 1.0]


@pytest.mark.parametrize(
    ("adapter", "source"),
    [
        ("checkpoints/epoch_3/adapter", "epoch 3"),
        ("checkpoints/epoch_3_step_40/adapter", "epoch 3 step 40"),
        ("final/adapter", "final"),
        ("best", "best"),
        ("../other/final/adapter", ""),
        ("checkpoints/kept by hand/adapter", ""),
    ],
)
def test_an_adapter_is_named_after_its_position_in_the_run(adapter: str, source: str) -> None:
    assert source_of(Path("/runs/one"), Path("/runs/one") / adapter) == source


def test_each_curve_is_drawn_and_named(tmp_path: Path) -> None:
    page = line_chart(
        [Series("one", [(1, 2.0), (2, 1.0)]), Series("two", [(1, 3.0)]), Series("none", [])], "Loss", "step"
    )
    assert page.count("<polyline") == 2
    assert "one ends at 1; two ends at 3" in page
    assert line_chart([Series("none", [])], "Loss", "step") == ""


def forecast(free_gb: float | None) -> Forecast:
    spec = memory_spec(FAMILIES["2b"], TrainingConfig(batch_size=4), LoRAConfig())
    free = None if free_gb is None else free_gb * GIB
    choices = choose(spec, free)
    advice = () if free is None else tuple(advise(spec, free))
    return Forecast(estimate(choices.spec), choices, "cuda", "a card", free, advice)


def test_a_run_that_does_not_fit_is_reported_with_suggestions() -> None:
    page = forecast_html(forecast(4.0))
    assert "does not fit" in page
    assert "To make it fit" in page
    assert "max_latent_length=" in page
    assert "Even then it does not fit" in forecast_html(forecast(0.5))


def test_a_run_that_fits_needs_no_advice() -> None:
    assert "To make it fit" not in forecast_html(forecast(80.0))
    assert "not known" in forecast_html(forecast(None))


def test_each_advice_can_be_followed_by_a_button(tmp_path: Path) -> None:
    job = TrainJob(tensor_dir=tmp_path, checkpoint="", out=tmp_path, training=TrainingConfig(batch_size=4))
    for advice in forecast(3.5).advice:
        assert advice.changes, advice.text
        for name, value in advice.changes.items():
            set_value(job, name, value)
    spec = memory_spec(FAMILIES["2b"], job.training, job.adapter)
    assert estimate(choose(spec, 3.5 * GIB).spec).total == forecast(3.5).advice[-1].together.total


def test_the_forecast_shows_the_automatic_choices_with_their_reasons() -> None:
    page = forecast_html(forecast(80.0))
    assert "Gradient checkpointing off: " in page
    assert "of 80.0 GB free" in page
    assert "Gradient checkpointing on every" in forecast_html(forecast(12.0))
    assert "the free memory is not known" in forecast_html(forecast(None))


def test_sizes_have_suitable_units() -> None:
    assert [html.size(number) for number in (520, 1_048_576, 5 * 2**30)] == ["520 B", "1.0 MB", "5.0 GB"]


def test_paths_are_shown_relative_to_the_workspace(tmp_path: Path) -> None:
    assert Workspace(tmp_path).relative(tmp_path / "runs" / "one") == "runs/one"


def test_a_typed_adapter_stays_selected_and_a_deleted_one_does_not(tmp_path: Path) -> None:
    app = AppState(Workspace(tmp_path))
    adapter = app.runs_folder / "one" / "final" / "adapter"
    assert app.was_deleted(str(adapter))
    adapter.mkdir(parents=True)
    assert not app.was_deleted(str(adapter))
    assert not app.was_deleted(str(tmp_path / "typed"))
    assert not app.was_deleted("")
