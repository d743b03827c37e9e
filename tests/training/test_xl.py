"""The XL family through everything: songs to tensors, a run with samples, stopped and gone on with, export, merge.

What belongs to one family is refused in words by the other.
"""

import shutil
from pathlib import Path

import pytest
import torch

from acestep.adapters.files import read_metadata
from acestep.cli.app import main
from acestep.core.errors import JobCancelled
from acestep.core.jobs import Context
from acestep.exporting.configs import MergeJob
from acestep.exporting.merge import merge_job
from acestep.exporting.package import export_adapter
from acestep.models.checkpoint import find_checkpoint
from acestep.models.configs import GenerationConfig
from acestep.models.generate import generate, load_components
from acestep.models.load import load_dit
from acestep.preprocessing.builder import preprocess_job
from acestep.preprocessing.configs import PreprocessJob
from acestep.tensors.manifest import read_manifest
from acestep.tensors.record import read_record
from acestep.training.state.run_folder import RunFolder
from tests.exporting.models import probe_output
from tests.preprocessing.conftest import label
from tests.songs import write_song
from tests.training.runs import Unstoppable, make_job, run, tensors_for
from tests.training.test_resume import assert_same_end

TURBO, XL = "acestep-v15-tiny", "acestep-v15-tiny-xl-base"
SETTINGS = {
    "max_epochs": 4,
    "save_every_n_epochs": 2,
    "gradient_accumulation_steps": 1,
    "auto_save_best_after": 1,
    "cfg_dropout_prob": 0.5,
    "samples__enabled": True,
    "samples__duration_s": 1,
    "samples__steps": 2,
    "samples__strengths": "1.0",
    "learning_rate": 5e-2,
}


@pytest.fixture(scope="module")
def trained(tiny_root, tmp_path_factory):
    """A run of two epochs on each family, by its name."""

    def one(name):
        folder = tmp_path_factory.mktemp(name)
        tensors = tensors_for(folder / "tensors", tiny_root / name, [(20, 6)])
        run(make_job(tensors, tiny_root / name, folder / "run", max_epochs=2))
        return folder

    return {name: one(name) for name in (TURBO, XL)}


def test_an_xl_model_runs_the_whole_workflow(tiny_root, tmp_path):
    checkpoint, tensors = tiny_root / XL, tmp_path / "tensors"
    for number in range(2):
        label(write_song(tmp_path / "songs" / f"{number}.wav", 1.0, number), f"tune {number}", "[Verse]\nla la")
    source = {"source": tmp_path / "songs", "checkpoint": str(checkpoint), "out": tensors, "device": "cpu"}
    preprocess_job(PreprocessJob(tag="zyxtag", **source), Unstoppable(tmp_path))
    config = find_checkpoint(checkpoint).config
    widths = {read_record(path).encoder_hidden_states.shape[1] for path in read_manifest(tensors).paths}
    assert widths == {config["encoder_hidden_size"]} != {config["hidden_size"]}

    whole, stopped = (make_job(tensors, checkpoint, tmp_path / name, **SETTINGS) for name in ("whole", "stopped"))
    result, _ = run(whole)
    assert result["fit_loss"] < result["fit_loss_before"]
    with pytest.raises(JobCancelled):
        run(stopped, stop_when=(RunFolder(stopped.out).checkpoints / "epoch_2").exists)
    run(stopped.model_copy(update={"resume": "auto"}))
    assert_same_end(whole.out, stopped.out)
    sounds = sorted(path.parent.name for path in stopped.out.rglob("samples/*/*.wav"))
    assert sounds == ["epoch_0", "epoch_2", "epoch_4"]

    card = read_metadata(whole.out)
    assert (card.family, card.variant, card.base_model) == ("xl", "base", XL)
    for target in ("acestep", "comfyui", "diffusers"):
        exported = export_adapter(whole.out, target, out=tmp_path / target, checkpoint=checkpoint)
        assert exported["output_error"] < 1e-3
    merged = Path(shutil.copytree(tiny_root, tmp_path / "models")) / "merged"
    merge_job(MergeJob(checkpoint=str(checkpoint), adapter=whole.out, out=merged), Context(tmp_path))
    assert find_checkpoint(merged).family == "xl"
    assert not torch.equal(probe_output(load_dit(merged)), probe_output(load_dit(checkpoint)))
    parts = load_components(find_checkpoint(merged), device="cpu", dtype=torch.float32)
    assert torch.isfinite(generate(parts, GenerationConfig(prompt="zyxtag", duration_s=1, steps=2))).all()


@pytest.mark.parametrize(("adapter_of", "model"), [(TURBO, XL), (XL, TURBO)])
def test_an_adapter_is_rejected_everywhere_by_the_other_model_family(
    adapter_of, model, trained, tiny_root, tmp_path, capsys
):
    adapter, checkpoint = trained[adapter_of] / "run" / "final", ["--checkpoint", str(tiny_root / model)]
    family = {TURBO: "2b", XL: "xl"}
    tensors, out = str(trained[model] / "tensors"), str(tmp_path / "out")
    for command in (
        ["train", tensors, *checkpoint, "--out", out, "--resume", str(adapter), "--device", "cpu", *_same_settings()],
        ["generate", *checkpoint, "--out", f"{out}.wav", "--adapter", str(adapter), "--duration", "1"],
        ["export", str(adapter), *checkpoint, "--out", out],
        ["merge", *checkpoint, "--adapter", str(adapter), "--out", out],
        ["prove", *checkpoint, "--adapter", str(adapter), "--out", out],
    ):
        assert main(command) == 1, command
        told = capsys.readouterr().err
        assert f"was trained for {adapter_of} ({family[adapter_of]})" in told, command
        assert f"{family[model]} family" in told, command
        assert "Choose" in told, command


@pytest.mark.parametrize(("trained_on", "model"), [(TURBO, XL), (XL, TURBO)])
def test_the_other_model_family_rejects_a_run_and_its_tensors(trained_on, model, trained, tiny_root, tmp_path, capsys):
    checkpoint = ["--checkpoint", str(tiny_root / model), "--device", "cpu"]
    run_of, tensors = str(trained[trained_on] / "run"), [str(trained[name] / "tensors") for name in (model, trained_on)]
    settings = [*checkpoint, *_same_settings()]
    assert main(["train", tensors[0], *settings, "--out", str(tmp_path / "out"), "--resume", run_of]) == 1
    families = {TURBO: "2b", XL: "xl"}
    assert f"model family is {families[model]} now and was {families[trained_on]}" in capsys.readouterr().err
    assert main(["train", tensors[1], *settings, "--out", str(tmp_path / "new")]) == 1
    told = capsys.readouterr().err
    assert "Preprocess" in told
    assert XL in told or "width" in told


def _same_settings():
    return ["--set", "attention_type=cross", "--set", "lora.r=4", "--set", "lora.alpha=8"]
