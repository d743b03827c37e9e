"""The A/B evaluation of an adapter reports metrics, audio files and a summary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from acestep.adapters.files import inject
from acestep.adapters.metadata import AdapterMetadata
from acestep.audio.files import load_audio
from acestep.core.config import parse
from acestep.core.errors import ConfigError, ModelMismatch, StorageError
from acestep.core.event_log import EventLog
from acestep.core.events import Finished, Progressed
from acestep.core.jobs import Context, run_job, write_job
from acestep.exporting.ab_evaluation import MARKER, band_levels, prove_job
from acestep.exporting.configs import ProveJob
from acestep.models.load import load_dit
from tests.adapters.small import LORA, save, trained
from tests.exporting.models import train

CARD = AdapterMetadata(family="2b", trigger_word="zyx", tag_position="append")


@pytest.fixture(scope="module")
def run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a LoRA that has a clear effect on the output."""
    folder = tmp_path_factory.mktemp("run")
    save(train(load_dit(tiny_checkpoint), "lora", "alpha = 2r"), folder / "final" / "adapter", CARD)
    return folder


def job(checkpoint: Path, run: Path, out: Path, **options: Any) -> ProveJob:
    given = {"checkpoint": str(checkpoint), "adapter": run, "out": out, "duration_s": 1, "steps": 2, "device": "cpu"}
    return parse(ProveJob, {**given, **options})


def prove(checkpoint: Path, run: Path, out: Path, **options: Any) -> dict[str, Any]:
    folder = out.with_name("job")
    folder.mkdir(exist_ok=True)
    return prove_job(job(checkpoint, run, out, **options), Context(folder))


def test_a_trained_adapter_is_reported_with_audio_and_metrics(tmp_path: Path, tiny_checkpoint: Path, run: Path) -> None:
    prompts = ["a waltz", "a zyx march"]
    result = prove(tiny_checkpoint, run, tmp_path / "out", prompts=prompts, seeds=[3, 4])
    assert "The effect of the adapter is" in result["sentence"]
    assert "negligible" not in result["sentence"]
    assert 0.05 < result["latent_difference"] < 3
    assert 0.3 < result["seed_difference"] < 3
    assert result["spectrum_difference_db"] > 0.1
    assert len(result["files"]) == 4
    for base, changed in result["files"]:
        one, other = load_audio(Path(base)), load_audio(Path(changed))
        assert one.shape == other.shape == (2, 48_000)
        assert not torch.equal(one, other)
    proof = json.loads((tmp_path / "out" / MARKER).read_text())
    assert len(proof["modules"]) == 44
    assert min(proof["modules"].values()) > 0
    assert list(result["strongest"].values())[0] == max(proof["modules"].values())
    assert list(result["weakest"].values())[0] == min(proof["modules"].values())
    assert [clip["prompt"] for clip in proof["pieces"]] == ["a waltz, zyx"] * 2 + ["a zyx march"] * 2
    assert [clip["seed"] for clip in proof["pieces"]] == [3, 4, 3, 4]
    done = [
        event.done for event in EventLog(tmp_path / "job" / "events.jsonl").read()[0] if isinstance(event, Progressed)
    ]
    assert done == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_weak_adapter_has_a_negligible_effect(tmp_path: Path, tiny_checkpoint: Path, run: Path) -> None:
    result = prove(tiny_checkpoint, run, tmp_path / "out", strength=0.01)
    assert "is negligible" in result["sentence"]
    assert "Train longer" in result["sentence"]
    assert 0 < result["latent_difference"] < 0.05


def test_an_untrained_adapter_is_reported_as_untrained(tmp_path: Path, tiny_checkpoint: Path) -> None:
    fresh = inject(load_dit(tiny_checkpoint), "lora", LORA, "both", False)
    folder = save(fresh, tmp_path / "fresh", CARD)
    result = prove(tiny_checkpoint, folder, tmp_path / "out")
    assert result["sentence"].startswith("The adapter is untrained")
    assert result["latent_difference"] == 0
    first, second = (Path(name).read_bytes() for name in result["files"][0])
    assert first == second


def test_modules_with_a_zero_weight_delta_are_counted(tmp_path: Path, tiny_checkpoint: Path) -> None:
    adapter = trained(load_dit(tiny_checkpoint), "lora", LORA, train_mlp=False)
    state = {key: value * ("layers.0." not in key) for key, value in adapter.state().items()}
    adapter.load_state(state)
    folder = save(adapter, tmp_path / "partly", CARD)
    result = prove(tiny_checkpoint, folder, tmp_path / "out")
    assert "8 of 32 modules have a zero weight delta" in result["sentence"]


def test_it_runs_as_a_job_and_replaces_only_its_own_folders(tmp_path: Path, tiny_checkpoint: Path, run: Path) -> None:
    for _ in range(2):
        config = job(tiny_checkpoint, run, tmp_path / "out")
        write_job(tmp_path / "job", "prove", config)
        assert isinstance(run_job(tmp_path / "job"), Finished)
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "mine.wav").write_text("precious")
    with pytest.raises(StorageError, match="contains files that this program did not write"):
        prove(tiny_checkpoint, run, tmp_path / "songs")
    assert [path.name for path in (tmp_path / "songs").iterdir()] == ["mine.wav"]


def test_mismatched_models_and_too_few_seeds_are_rejected_before_generation(
    tmp_path: Path, tiny_root: Path, run: Path
) -> None:
    with pytest.raises(ModelMismatch, match="xl family"):
        prove(tiny_root / "acestep-v15-tiny-xl-base", run, tmp_path / "out")
    with pytest.raises(ConfigError, match="seeds"):
        prove(tiny_root / "acestep-v15-tiny", run, tmp_path / "out", seeds=[1])
    assert not (tmp_path / "out").exists()


def test_band_levels_follow_the_pitch_and_ignore_the_volume() -> None:
    time = torch.arange(48_000) / 48_000
    low, high = (torch.sin(2 * torch.pi * pitch * time).repeat(2, 1) for pitch in (110, 4000))
    one, other = band_levels(low), band_levels(high)
    assert one.mean(dim=0).argmax() < other.mean(dim=0).argmax()
    assert one.max() == other.max() == 0
    assert torch.equal(band_levels(0.1 * low), one) or torch.allclose(band_levels(0.1 * low), one, atol=1e-2)
    assert band_levels(torch.zeros(2, 48_000)).eq(0).all()
