"""A merged model contains the adapter, and is written completely or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AceStepPipeline
from safetensors.torch import load_file, save_file

from acestep.adapters.metadata import AdapterMetadata
from acestep.core.errors import CheckpointError, JobCancelled, ModelMismatch, StorageError
from acestep.core.event_log import EventLog
from acestep.core.events import Event, Finished, LogMessage, Progressed, Saved
from acestep.core.jobs import Context, run_job, write_job
from acestep.exporting.configs import MergeJob
from acestep.exporting.merge import MARKER, merge_job
from acestep.handler import AceStepHandler
from acestep.models.checkpoint import (
    check_checkpoint,
    check_vae_and_text_encoder,
    encoder_fingerprint,
    find_checkpoint,
    list_checkpoints,
)
from acestep.models.configs import GenerationConfig
from acestep.models.load import load_dit, load_silence_latent
from tests.adapters.small import LORA, make_decoder, save, trained
from tests.adapters.test_loading import stock_lokr
from tests.exporting.models import EVERY, error, make_run, probe_output, write_checkpoint_of
from tests.models.checkpoint_layouts import in_diffusers_layout, sharded


def merge(checkpoint: Path, adapter: Path, out: Path, job: Path | None = None, **options: Any) -> dict[str, Any]:
    folder = job or out.with_name("job")
    folder.mkdir(parents=True, exist_ok=True)
    return merge_job(MergeJob(checkpoint=str(checkpoint), adapter=adapter, out=out, **options), Context(folder))


def events(job: Path) -> list[Event]:
    return EventLog(job / "events.jsonl").read()[0]


def in_bf16(checkpoint: Path, folder: Path) -> Path:
    target = Path(shutil.copytree(checkpoint, folder / checkpoint.name))
    weights = load_file(checkpoint / "model.safetensors")
    save_file({key: value.bfloat16() for key, value in weights.items()}, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize(("kind", "setting"), EVERY)
def test_the_merged_model_gives_the_output_of_base_model_and_adapter(
    tmp_path: Path, small_checkpoint: Path, kind: str, setting: str
) -> None:
    expected = make_run(small_checkpoint, tmp_path / "run", kind, setting)
    result = merge(small_checkpoint, tmp_path / "run", tmp_path / "merged")
    found = probe_output(load_dit(tmp_path / "merged"))
    assert error(found, expected, probe_output(load_dit(small_checkpoint))) < 1e-4
    assert result["merged"] == 22
    assert result["rounding"] < 1e-4


def test_the_strength_scales_the_merged_deltas(tmp_path: Path, small_checkpoint: Path) -> None:
    decoder = load_dit(small_checkpoint)
    base = probe_output(decoder)
    adapter = trained(decoder, "lora", LORA)
    save(adapter, tmp_path / "run" / "final" / "adapter")
    adapter.set_strength(0.5)
    merge(small_checkpoint, tmp_path / "run", tmp_path / "merged", strength=0.5)
    assert error(probe_output(load_dit(tmp_path / "merged")), probe_output(decoder), base) < 1e-4


def test_a_bf16_base_model_stays_bf16_and_differs_by_rounding_only(tmp_path: Path, small_checkpoint: Path) -> None:
    checkpoint = in_bf16(small_checkpoint, tmp_path / "base")
    make_run(checkpoint, tmp_path / "run", "lora", "alpha = r")
    result = merge(checkpoint, tmp_path / "run", tmp_path / "merged")
    weights, before = load_file(tmp_path / "merged" / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    adapter = load_file(tmp_path / "run" / "final" / "adapter" / "adapter_model.safetensors")
    squared_error = squared_norm = 0.0
    for key, value in weights.items():
        module = f"base_model.model.{key.removeprefix('decoder.').removesuffix('.weight')}"
        added = torch.zeros(())
        if f"{module}.lora_B.weight" in adapter:
            added = adapter[f"{module}.lora_B.weight"] @ adapter[f"{module}.lora_A.weight"]
        exact = before[key].float() + added
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, exact.bfloat16())
        squared_error += float((value.float() - exact).norm()) ** 2
        squared_norm += float(added.norm()) ** 2
    assert result["rounding"] == pytest.approx((squared_error / squared_norm) ** 0.5, rel=1e-3)


def test_the_merged_folder_has_the_layout_of_the_base_model(tmp_path: Path, small_checkpoint: Path) -> None:
    base = Path(shutil.copytree(small_checkpoint, tmp_path / small_checkpoint.name))
    (base / "modeling_acestep_v15_turbo.py").write_text("raise SystemExit('never executed')")
    (base / "README.md").write_text("about the base")
    make_run(small_checkpoint, tmp_path / "run", "lora", "alpha = r")
    merge(base, tmp_path / "run", tmp_path / "acestep-v15-merged")
    merged = tmp_path / "acestep-v15-merged"
    names = {path.name for path in merged.iterdir()}
    assert names == {"config.json", "model.safetensors", "silence_latent.pt", "modeling_acestep_v15_turbo.py", MARKER}
    for name in names - {"model.safetensors", MARKER}:
        assert (merged / name).read_bytes() == (base / name).read_bytes()
    check_checkpoint(found := find_checkpoint(merged))
    assert found.variant == "turbo"
    assert encoder_fingerprint(found) == encoder_fingerprint(find_checkpoint(base))
    assert [each.name for each in list_checkpoints(tmp_path)] == ["acestep-v15-merged", "acestep-v15-small"]
    before, after = load_file(base / "model.safetensors"), load_file(merged / "model.safetensors")
    assert after.keys() == before.keys()
    untouched = [key for key in before if "_proj.weight" not in key or not key.startswith("decoder.layers")]
    assert all(torch.equal(after[key], before[key]) for key in untouched)


def test_a_sharded_base_model_stays_sharded(tmp_path: Path, tiny_checkpoint: Path) -> None:
    checkpoint = sharded(tiny_checkpoint, tmp_path / "base")
    expected = make_run(checkpoint, tmp_path / "run", "lora", "alpha = r")
    merge(checkpoint, tmp_path / "run", tmp_path / "merged")
    names = {path.name for path in checkpoint.iterdir()} - {"tiny.json"}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names | {MARKER}
    found = probe_output(load_dit(tmp_path / "merged"))
    assert error(found, expected, probe_output(load_dit(checkpoint))) < 1e-4


def test_the_diffusers_layout_is_a_complete_pipeline(tmp_path: Path, tiny_checkpoint: Path) -> None:
    expected = make_run(tiny_checkpoint, tmp_path / "run", "lora", "alpha = r")
    merge(tiny_checkpoint, tmp_path / "run", tmp_path / "merged", layout="diffusers")
    pipeline = AceStepPipeline.from_pretrained(tmp_path / "merged")
    base = probe_output(load_dit(tiny_checkpoint))
    assert error(probe_output(pipeline.transformer), expected, base) < 1e-4
    assert error(probe_output(load_dit(tmp_path / "merged")), expected, base) < 1e-4
    assert torch.equal(pipeline.condition_encoder.silence_latent, load_silence_latent(tiny_checkpoint))
    music = pipeline(prompt="a song", lyrics="[Instrumental]", audio_duration=1.0, num_inference_steps=2)
    assert torch.isfinite(torch.as_tensor(music.audios[0])).all()


def test_a_base_model_in_the_diffusers_layout_keeps_its_layout(tmp_path: Path, tiny_checkpoint: Path) -> None:
    base = in_diffusers_layout(tiny_checkpoint, tmp_path / "base")
    expected = make_run(base, tmp_path / "run", "lokr", "alpha = dim")
    merge(base, tmp_path / "run", tmp_path / "merged")
    base_files = sorted(path.relative_to(base) for path in base.rglob("*") if path.is_file())
    found = sorted(path.relative_to(tmp_path / "merged") for path in (tmp_path / "merged").rglob("*") if path.is_file())
    assert found == sorted([*base_files, Path(MARKER)])
    assert error(probe_output(load_dit(tmp_path / "merged")), expected, probe_output(load_dit(base))) < 1e-4


def test_an_ace_lora_trainer_lokr_is_merged_into_every_layer_it_adapts(tmp_path: Path) -> None:
    base = write_checkpoint_of(make_decoder(), tmp_path / "base")
    stock_lokr(tmp_path / "run", linear_dim=10000)
    result = merge(base, tmp_path / "run", tmp_path / "merged")
    before, after = load_dit(base).state_dict(), load_dit(tmp_path / "merged").state_dict()
    changed = {key for key, value in before.items() if not torch.equal(value, after[key])}
    assert {"proj_in_conv.weight", "condition_embedder.weight", "time_embed.linear_1.weight"} <= changed
    assert result["merged"] == len(changed)


def test_progress_is_reported(tmp_path: Path, small_checkpoint: Path) -> None:
    make_run(small_checkpoint, tmp_path / "run", "lora", "alpha = r")
    merge(small_checkpoint, tmp_path / "run", tmp_path / "merged")
    emitted = events(tmp_path / "job")
    done = [event.done for event in emitted if isinstance(event, Progressed)]
    assert done == sorted(done)
    assert done[-1] == len(load_file(small_checkpoint / "model.safetensors"))
    assert [event.path for event in emitted if isinstance(event, Saved)] == [str(tmp_path / "merged")]
    assert any(isinstance(event, LogMessage) and event.warning and "vae" in event.message for event in emitted)


def test_cancelling_leaves_an_existing_folder_unchanged(
    tmp_path: Path, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(small_checkpoint, tmp_path / "run", "lora", "alpha = r")
    merge(small_checkpoint, tmp_path / "run", tmp_path / "merged")
    before = (tmp_path / "merged" / "model.safetensors").read_bytes()
    emit = Context.emit

    def stop_after_a_while(self: Context, event: Event) -> None:
        emit(self, event)
        if isinstance(event, Progressed) and event.done >= 40:
            (self.folder / "cancel").touch()

    monkeypatch.setattr(Context, "emit", stop_after_a_while)
    for out in ("merged", "new"):
        with pytest.raises(JobCancelled):
            merge(small_checkpoint, tmp_path / "run", tmp_path / out, strength=0.5)
    assert (tmp_path / "merged" / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job", "merged", "run"]


def test_it_runs_as_a_job(tmp_path: Path, small_checkpoint: Path) -> None:
    make_run(small_checkpoint, tmp_path / "run", "lora", "alpha = r")
    config = MergeJob(checkpoint=small_checkpoint.name, adapter=tmp_path / "run", out=tmp_path / "merged")
    config.root = small_checkpoint.parent
    write_job(tmp_path / "job", "merge", config)
    last = run_job(tmp_path / "job")
    assert isinstance(last, Finished)
    assert last.result["checkpoint"] == str(tmp_path / "merged")


def test_a_model_merged_into_another_folder_generates_with_the_vae_and_text_encoder_of_its_base_model(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    make_run(tiny_checkpoint, tmp_path / "run", "lora", "alpha = r")
    out = tmp_path / "workspace" / "checkpoints" / "acestep-v15-merged"
    merge(tiny_checkpoint, tmp_path / "run", out, job=tmp_path / "job")
    assert not any(isinstance(event, LogMessage) and event.warning for event in events(tmp_path / "job"))
    assert json.loads((out / MARKER).read_text())["components"] == str(tiny_checkpoint.parent)
    check_vae_and_text_encoder(find_checkpoint(out))
    handler = AceStepHandler(out, device="cpu")
    assert handler.generate(GenerationConfig(prompt="calm", duration_s=1, steps=1)).shape[0] == 2
    again = tmp_path / "acestep-v15-merged-twice"
    merge(out, tmp_path / "run", again)
    assert find_checkpoint(again).components_root == tiny_checkpoint.parent


def test_a_merged_model_that_is_moved_finds_its_vae_and_text_encoder(tmp_path: Path, tiny_checkpoint: Path) -> None:
    make_run(tiny_checkpoint, tmp_path / "run", "lora", "alpha = r")
    models, usual = tmp_path / "models", tmp_path / "checkpoints"
    for name in (tiny_checkpoint.name, "vae", "Qwen3-Embedding-0.6B"):
        shutil.copytree(tiny_checkpoint.parent / name, models / name)
    merge(models / tiny_checkpoint.name, tmp_path / "run", tmp_path / "merged")
    shutil.copytree(models / "vae", usual / "vae")  # of another model: it has no text encoder for this one
    moved = Path(shutil.move(tmp_path / "merged", usual / "acestep-v15-merged"))
    assert find_checkpoint(moved).components_root == models
    shutil.rmtree(usual / "vae")
    shutil.move(models, tmp_path / "elsewhere")
    for name in ("vae", "Qwen3-Embedding-0.6B"):
        shutil.copytree(tiny_checkpoint.parent / name, usual / name)
    assert find_checkpoint(moved).components_root == usual
    check_vae_and_text_encoder(find_checkpoint(moved))
    (moved / MARKER).write_text("{")
    assert find_checkpoint(moved).components_root == usual


def test_an_earlier_merge_is_replaced(tmp_path: Path, small_checkpoint: Path) -> None:
    make_run(small_checkpoint, tmp_path / "run", "lora", "alpha = r")
    for strength in (1.0, 0.0):
        merge(small_checkpoint, tmp_path / "run", tmp_path / "merged", strength=strength)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    base = load_file(small_checkpoint / "model.safetensors")
    assert all(torch.equal(merged[key], value) for key, value in base.items())
    assert json.loads((tmp_path / "merged" / MARKER).read_text())["strength"] == 0.0


@pytest.mark.parametrize("what", ["a file", "another model", "notes beside a merged model", "the base itself"])
def test_folders_of_other_origin_are_never_overwritten(tmp_path: Path, small_checkpoint: Path, what: str) -> None:
    base = Path(shutil.copytree(small_checkpoint, tmp_path / "base"))
    make_run(base, tmp_path / "run", "lora", "alpha = r")
    out = base if what == "the base itself" else tmp_path / "out"
    if what == "a file":
        out.write_text("precious")
    elif what == "another model":
        shutil.copytree(base, out)
    elif what == "notes beside a merged model":
        merge(base, tmp_path / "run", out)
        (out / "notes.txt").write_text("precious")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "job"}
    with pytest.raises(StorageError, match=r"contains files that this program did not write|is the base model itself"):
        merge(base, tmp_path / "run", out, strength=0.5)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "job"}
    assert after == before


def test_a_mismatched_base_model_is_rejected_before_anything_is_written(
    tmp_path: Path, small_checkpoint: Path, tiny_root: Path
) -> None:
    make_run(small_checkpoint, tmp_path / "run", "lora", "alpha = r")
    with pytest.raises(ModelMismatch, match="belongs to the xl family"):
        merge(tiny_root / "acestep-v15-tiny-xl-base", tmp_path / "run", tmp_path / "merged")
    with pytest.raises(CheckpointError, match="checkpoint 'nowhere' not found"):
        merge(Path("nowhere"), tmp_path / "run", tmp_path / "merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job", "run"]


def test_the_diffusers_layout_has_the_keys_and_configs_of_save_pretrained(tmp_path: Path, tiny_root: Path) -> None:
    base = tiny_root / "acestep-v15-tiny-xl-base"
    decoder = load_dit(base)
    adapter = trained(decoder, "lora", LORA)
    save(adapter, tmp_path / "run" / "final" / "adapter", AdapterMetadata(family="xl"))
    expected = probe_output(decoder)
    adapter.remove()
    merge(base, tmp_path / "run", tmp_path / "merged", layout="diffusers")
    written = in_diffusers_layout(base, tmp_path)  # saved by a subclass of the decoder, which has another class name
    own_class = {"_class_name": "AceStepTransformer1DModel"}
    for part in ("transformer", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer"):
        one, other = (
            load_file(folder / part / "diffusion_pytorch_model.safetensors")
            for folder in (tmp_path / "merged", written)
        )
        assert one.keys() == other.keys()
        merged = json.loads((tmp_path / "merged" / part / "config.json").read_text())
        reference = json.loads((written / part / "config.json").read_text())
        assert {key: value for key, value in merged.items() if reference.get(key) != value} in ({}, own_class)
    assert error(probe_output(load_dit(tmp_path / "merged")), expected, probe_output(load_dit(base))) < 1e-4
