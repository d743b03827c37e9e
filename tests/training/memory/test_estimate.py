"""The memory of a run: what is counted, what is predicted, and what checkpointing saves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from acestep.adapters.configs import ADAPTERS, AdapterConfig, DoRAConfig, LoHaConfig, LoKRConfig, LoRAConfig
from acestep.adapters.files import inject
from acestep.cli.app import main
from acestep.core.paths import PROJECT
from acestep.models.checkpoint import find_checkpoint
from acestep.training.configs import TrainingConfig
from acestep.training.flow_matching import FlowMatching
from acestep.training.memory.advice import advise
from acestep.training.memory.estimate import GIB, PARTS, estimate
from acestep.training.memory.spec import FAMILIES, MemorySpec, memory_spec
from acestep.training.optim.optimizers import OPTIMIZERS
from acestep.training.prepare import prepare
from acestep.training.session import Session
from tests.live_bytes import LiveBytes
from tests.training.memory.measured_runs import SMALL, SMALL_XL, Measured, make_batch, make_decoder, measure
from tests.training.runs import Unstoppable, make_job, tensors_for

TOLERANCE = 0.05  # of the peak; dev/measure_memory.py goes through many more settings
ADAPTER: dict[str, AdapterConfig] = {
    "lora": LoRAConfig(r=8),
    "dora": DoRAConfig(r=8),
    "lokr": LoKRConfig(),
    "loha": LoHaConfig(),
}


def a_run(kind: str = "lora", **settings: Any) -> MemorySpec:
    """A small run on the CPU."""
    given: dict[str, Any] = {"config": SMALL, "kind": kind, "adapter": ADAPTER[kind], "frames": 200, "tokens": 40}
    return MemorySpec(**{**given, "device": "cpu", **settings})


def off_by(spec: MemorySpec, measured: Measured) -> float:
    """Share of the peak by which the estimate is wrong."""
    return abs(estimate(spec).tensors / measured.peak - 1)


def test_storage_is_counted_once_for_all_views_and_released_at_the_end() -> None:
    with LiveBytes() as live:
        numbers = torch.ones(1000)
        views = [numbers[:10], numbers.view(10, 100)]
        assert (live.now, live.peak) == (4000, 4000)
        twice = numbers * 2
        del twice, numbers
        assert (live.now, live.peak) == (4000, 8000)
        del views
        assert live.now == 0


def test_what_autograd_keeps_is_counted_until_the_backward_pass() -> None:
    x = torch.ones(1000, requires_grad=True)
    with LiveBytes() as live:
        y = x.exp().exp().sum()
        assert live.now == 3 * 4000 + 4
        y.backward()
        assert live.now == 2 * 4000 + 4  # x, its gradient, and the sum


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ADAPTERS.names)
def test_the_peak_is_estimated_for_every_adapter_type(kind: str, compute: str) -> None:
    spec = a_run(kind, compute=compute, base=compute, train_mlp=kind in ("lora", "lokr"))
    assert off_by(spec, measure(spec)) < TOLERANCE


VARIED: dict[str, dict[str, Any]] = {
    "8-bit base": {"base": "int8", "checkpoint_every": 1},
    "4-bit base": {"base": "nf4"},
    "every layer again": {"checkpoint_every": 1, "frames": 600},
    "every third layer again": {"checkpoint_every": 3},
    "songs of different lengths": {"batch_size": 3, "padded": True},
    "gathered batches": {"accumulation": 2, "adapter": LoRAConfig(r=64)},
    "self-attention": {"attention_type": "self", "compute": "fp32", "base": "fp32"},
    "cross-attention": {"attention_type": "cross", "checkpoint_every": 1},
    "XL": {"config": SMALL_XL, "ema": True},
    "PiSSA": {"adapter": LoRAConfig(r=8, init="pissa", dropout=0.0), "checkpoint_every": 1},
    "ranks by module": {"adapter": LoRAConfig(r=8, ranks={"q_proj": 64, "layers.1.self_attn.q_proj": 4})},
    "LoKr of low rank": {"kind": "lokr", "adapter": LoKRConfig(linear_dim=2, factor=4, decompose_both=True)},
    "LoKr with weight decomposition": {
        "kind": "lokr",
        "adapter": LoKRConfig(linear_dim=2, factor=4, weight_decompose=True, unbalanced_factorization=True),
    },
    "a large adapter and short songs": {"adapter": LoRAConfig(r=256), "frames": 20, "tokens": 8},
}


@pytest.mark.parametrize("settings", VARIED.values(), ids=VARIED.keys())
def test_the_peak_is_estimated_for_every_training_option(settings: dict[str, Any]) -> None:
    spec = a_run(**{"kind": "lora", **settings})
    assert off_by(spec, measure(spec)) < TOLERANCE


def test_the_peak_is_estimated_without_a_fused_attention_kernel() -> None:
    spec = a_run(frames=600, compute="fp32", base="fp32")
    with sdpa_kernel(SDPBackend.MATH):
        measured = measure(spec)
    assert off_by(replace(spec, device="mps"), measured) < TOLERANCE
    assert off_by(spec, measured) > TOLERANCE


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names)
def test_what_lies_in_memory_between_two_steps_is_known_exactly(optimizer: str) -> None:
    spec = a_run(frames=20, tokens=8, optimizer=optimizer, adapter=LoRAConfig(r=32), ema=True)
    parts, measured = estimate(spec).parts, measure(spec)
    assert parts["model"] + parts["adapter"] + parts["average"] == measured.loaded
    assert parts["model"] + parts["adapter"] + parts["average"] + parts["optimizer"] == pytest.approx(
        measured.resting, abs=1024
    )


@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("kind", ADAPTERS.names)
def test_checkpointing_recomputes_the_chosen_layers_and_changes_no_gradient(kind: str, every: int) -> None:
    plain, again = (_gradients(a_run(kind, base="fp32", compute="fp32", checkpoint_every=n)) for n in (0, every))
    layers = range(SMALL["num_hidden_layers"])
    assert plain[1] == dict.fromkeys(layers, 1)
    assert again[1] == {index: 2 if index % every == 0 else 1 for index in layers}
    assert all(map(torch.equal, plain[0], again[0]))


def _gradients(spec: MemorySpec) -> tuple[list[torch.Tensor], Counter[int]]:
    """Of one step, and how often each layer was computed for it."""
    decoder, calls = make_decoder(spec), Counter[int]()
    adapter = inject(decoder, spec.kind, spec.adapter, "both", False, seed=1)
    with torch.no_grad():
        for parameter in adapter.parameters():  # those that start at zero would hide the others
            parameter.add_(0.01)
    for index, layer in enumerate(decoder.layers):
        layer.register_forward_pre_hook(lambda *_, index=index: calls.update([index]))
    torch.manual_seed(1)  # of the noise of the songs; dropout is the decoder's, which is in evaluation
    FlowMatching(adapter.network, torch.zeros(1, 1, SMALL["hidden_size"]))(make_batch(spec)).sum().backward()
    return [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None], calls


@pytest.mark.parametrize("kind", ["lora", "lokr"])
def test_checkpointing_makes_the_peak_smaller_the_more_layers_it_takes(kind: str) -> None:
    peaks = [measure(a_run(kind, checkpoint_every=every)).peak for every in (0, 2, 1)]
    assert peaks[0] > 1.2 * peaks[1] > 1.2 * 1.1 * peaks[2]


@pytest.mark.parametrize("base", ["auto", "nf4"])
def test_training_loads_the_decoder_and_no_other_part_of_the_model(
    tmp_path: Path, tiny_checkpoint: Path, base: str
) -> None:
    tensors = tensors_for(tmp_path / "tensors", tiny_checkpoint)
    job = make_job(tensors, tiny_checkpoint, tmp_path / "out", base_precision=base, ema_decay=0.9)
    prepared = prepare(job, Unstoppable(tmp_path))
    parts = estimate(memory_spec(prepared.checkpoint.config, job.training, job.adapter, device="cpu")).parts
    with LiveBytes() as live:
        session = Session(prepared, lambda event: None)
        loaded = live.now
    session.close()
    assert loaded == pytest.approx(parts["model"] + parts["adapter"] + parts["average"], abs=1024)


def test_the_settings_of_checkpointing_reach_the_decoder(tmp_path: Path, tiny_checkpoint: Path) -> None:
    tensors = tensors_for(tmp_path / "tensors", tiny_checkpoint)
    settings = {"gradient_checkpointing": True, "gradient_checkpointing_every": 2}
    job = make_job(tensors, tiny_checkpoint, tmp_path / "out", **settings)
    session = Session(prepare(job, Unstoppable(tmp_path)), lambda event: None)
    decoder: Any = session.adapter.network
    calls = Counter[int]()
    for index, layer in enumerate(decoder.layers):
        layer.register_forward_pre_hook(lambda *_, index=index: calls.update([index]))
    session.fabric.backward(session.model(session.make_batch([0], 0)).sum())
    session.close()
    assert decoder.gradient_checkpointing
    assert calls == {index: 2 - index % 2 for index in range(len(decoder.layers))}


def test_settings_become_the_run_that_is_estimated() -> None:
    training = TrainingConfig(
        adapter_type="lokr",
        batch_size=2,
        max_latent_length=0,
        gradient_checkpointing=True,
        gradient_checkpointing_every=3,
        optimizer_type="prodigy",
        ema_decay=0.99,
    )
    spec = memory_spec(FAMILIES["xl"], training, LoKRConfig(), longest=4000, tokens=100)
    assert (spec.kind, spec.batch_size, spec.frames, spec.tokens, spec.checkpoint_every) == ("lokr", 2, 4000, 100, 3)
    assert (spec.padded, spec.ema, spec.optimizer, spec.base, spec.compute) == (True, True, "prodigy", "bf16", "bf16")
    assert memory_spec(SMALL, TrainingConfig(), LoRAConfig(), longest=700).frames == 700
    assert memory_spec(SMALL, TrainingConfig(), LoRAConfig(), device="cpu").compute == "fp32"
    assert memory_spec(SMALL, TrainingConfig(base_precision="nf4"), LoRAConfig()).base == "nf4"


def test_an_estimate_gives_its_parts_and_whether_it_fits() -> None:
    found = estimate(a_run())
    assert found.parts.keys() == PARTS.keys() - {"sampling"}
    assert found.total == sum(found.parts.values()) == found.tensors + found.parts["program"]
    assert found.fits(found.total)
    assert not found.fits(found.total - 1)


LARGE = MemorySpec(
    FAMILIES["2b"], "lora", LoRAConfig(r=128), frames=3000, batch_size=4, padded=True, optimizer="prodigy"
)


def test_a_run_that_fits_gets_no_advice() -> None:
    assert advise(LARGE, estimate(LARGE).total) == []


def test_advice_starts_with_the_crop_and_ends_when_the_run_fits() -> None:
    (only,) = advise(LARGE, estimate(replace(LARGE, frames=2250)).total)
    assert only.spec == replace(LARGE, frames=2250)
    assert only.together == only.alone == estimate(only.spec)


def test_advice_is_ordered_and_each_estimate_is_of_the_changed_run() -> None:
    order = ["crop", "recompute", "lower the batch size", "keep the frozen model", "lower the rank", "use"]
    advice = advise(LARGE, 3 * GIB)
    places = [order.index(next(word for word in order if one.text.startswith(word))) for one in advice]
    assert places == sorted(set(places))
    assert {0, 1, 3} <= set(places)
    totals = [estimate(LARGE).total, *(one.together.total for one in advice)]
    assert totals == sorted(totals, reverse=True)
    assert all(estimate(one.spec) == one.together and one.alone.total < totals[0] for one in advice)


def test_a_small_saving_is_suggested_where_it_is_enough() -> None:
    smaller = replace(LARGE, optimizer="adamw8bit", frames=750)
    spec = replace(smaller, optimizer="prodigy", batch_size=1, checkpoint_every=1, base="nf4", adapter=LoRAConfig(r=15))
    enough = estimate(replace(spec, optimizer="adamw8bit")).total
    assert [one.spec.optimizer for one in advise(spec, enough)] == ["adamw8bit"]
    assert enough > 0.9 * estimate(spec).total


def test_smaller_batches_keep_the_samples_per_step() -> None:
    spec = replace(LARGE, frames=750, checkpoint_every=1, batch_size=6, accumulation=1)
    (advice,) = advise(spec, estimate(replace(spec, batch_size=3, accumulation=2)).total)
    assert (advice.spec.batch_size, advice.spec.accumulation) == (3, 2)
    assert advice.changes == {"training.batch_size": 3, "training.gradient_accumulation_steps": 2}


@pytest.mark.parametrize("kind", ["lora", "dora", "loha"])
def test_the_rank_is_changed_in_the_settings_of_the_adapter_that_is_trained(kind: str) -> None:
    spec = replace(LARGE, kind=kind)
    changes = [change for advice in advise(spec, 3 * GIB) for change in advice.changes]
    assert f"{kind}.r" in changes
    assert all(name.partition(".")[0] in ("training", kind) for name in changes)


def test_advice_for_mps_excludes_what_it_does_not_support() -> None:
    here, there = (
        " ".join(one.text for one in advise(replace(LARGE, device=device), GIB)) for device in ("cuda", "mps")
    )
    assert "nf4" in here
    assert "nf4" not in there
    assert "int8" not in there


def test_the_memory_command_suggests_changes_for_a_model_family(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["memory", "--family", "xl", "--preset", "vram_24gb_plus", "--free", "10", "--json"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0
    assert not report["fits"]
    assert report["total"] == pytest.approx(sum(report["parts"].values()))
    assert report["advice"][-1]["together"] <= 10


def test_the_memory_command_describes_a_checkpoint(tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["memory", "--checkpoint", str(tiny_checkpoint), "--free", "8"]
    command += ["--set", "gradient_checkpointing=on", "--set", "gradient_checkpointing_every=2"]
    assert main(command) == 0
    report = capsys.readouterr().out
    assert "gradient checkpointing on every 2nd layer: as requested" in report
    assert "it fits" in report
    expected = memory_spec(find_checkpoint(tiny_checkpoint).config, TrainingConfig(), LoRAConfig())
    assert f"{estimate(expected).parts['adapter'] / GIB:.2f} GB  adapter" in report


def test_the_memory_command_reports_the_memory_of_audio_previews(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["memory", "--preset", "vram_8gb", "--set", "samples.enabled=true", "--set", "samples.duration_s=20"]
    assert main([*command, "--free", "4"]) == 0
    assert "GB  while generating previews of 20 s: they will be shortened or skipped" in capsys.readouterr().out
    assert main([*command, "--free", "80", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])["samples"]
    assert found["fits"]
    assert found["total"] == pytest.approx(sum(found["parts"].values()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--checkpoint", "x", "--family", "xl"], "Use one of them"),
        (["--set", "batchsize=2"], "batch_size"),
        (["--preset", "vram_8"], "vram_8gb"),
    ],
)
def test_the_memory_command_rejects_bad_input(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", *arguments]) == 1
    assert words in capsys.readouterr().err


def test_the_estimate_needs_no_torch() -> None:
    code = "import sys, acestep.cli.memory; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, cwd=PROJECT).returncode == 0
