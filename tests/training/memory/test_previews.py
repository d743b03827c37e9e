"""The memory of audio previews: what is counted, and what is estimated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from acestep.adapters.configs import LoRAConfig
from acestep.adapters.files import inject
from acestep.models.checkpoint import find_checkpoint
from acestep.models.configs import GenerationConfig
from acestep.models.generate import denoise
from acestep.models.prompt_condition import PromptCondition
from acestep.models.weight_shapes import encoder_sizes
from acestep.training.configs import TrainingConfig, apply_preset
from acestep.training.evaluation import audio_previews
from acestep.training.evaluation.preview_config import PreviewConfig
from acestep.training.memory.activations import CHANNELS
from acestep.training.memory.estimate import GIB, resident
from acestep.training.memory.previews import Companions, estimate_samples, preview_moments
from acestep.training.memory.spec import FAMILIES, MemorySpec, memory_spec
from acestep.training.trainer import train_job
from tests.live_bytes import LiveBytes
from tests.training.memory.measured_runs import SMALL, make_decoder
from tests.training.runs import Unstoppable, make_job, tensors_for

TINY = Companions(text_encoder=26_944, vae=2_936_096, vae_width=16, vae_ratios=(2, 4, 4, 6, 10))
TOKENS = 200  # of the prompt and the empty lyrics, which the tokenizer of the tiny model splits into bytes


def peaks_of(folder: Path, checkpoint: Path, precision: str, seconds: float) -> tuple[MemorySpec, dict[str, list[int]]]:
    """Bytes at the peak of each part of the previews of a run, and of all parts."""
    tensors = tensors_for(folder / "tensors", checkpoint, [(20, 6)])
    settings = {"mixed_precision": precision, "ema_decay": 0.9, "max_epochs": 1, "gradient_accumulation_steps": 1}
    job = make_job(tensors, checkpoint, folder / "out", **settings)
    job.samples = PreviewConfig(enabled=True, duration_s=seconds, steps=1, strengths="1")
    found: dict[str, list[int]] = {}

    def measured(owner: Any, name: str, part: str) -> None:
        true = getattr(owner, name)

        def measuring(*args: Any, **more: Any) -> Any:
            live.peak = live.now
            result = true(*args, **more)
            found.setdefault(part, []).append(live.peak)
            return result

        patch.setattr(owner, name, measuring)

    with pytest.MonkeyPatch.context() as patch, LiveBytes() as live:
        measured(audio_previews, "load_and_encode", "encode")
        measured(audio_previews, "decode_latents", "decode")
        train_job(job, Unstoppable(folder))
    spec = memory_spec(find_checkpoint(checkpoint).config, job.training, job.adapter, device="cpu", tokens=TOKENS)
    return spec, found


@pytest.mark.parametrize(("precision", "seconds"), [("fp32", 1), ("bf16", 4), ("bf16", 12)])
def test_the_peak_of_audio_previews_is_estimated(
    tmp_path: Path, tiny_checkpoint: Path, precision: str, seconds: float
) -> None:
    spec, peaks = peaks_of(tmp_path, tiny_checkpoint, precision, seconds)
    fixed = sum(size for name, size in resident(spec).items() if name != "batch")
    moments = preview_moments(spec, seconds, TINY)
    tolerance = 0.01 if seconds < 5 else 0.05  # the tiles of longer audio have different lengths
    assert [fixed + moments["decode"].total] * 2 == pytest.approx(peaks["decode"], rel=tolerance)
    assert [fixed + moments["encode"].total] == pytest.approx(peaks["encode"], rel=0.05)
    assert estimate_samples(spec, seconds, TINY).tensors == fixed + moments["decode"].total


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
@pytest.mark.parametrize("turbo", [True, False])
def test_the_peak_while_latents_are_generated_is_estimated(turbo: bool, compute: str) -> None:
    config = {**SMALL, "is_turbo": turbo, "sliding_window": 1000}  # no masks, which are small at full size
    spec = MemorySpec(config, "lora", LoRAConfig(r=8), tokens=300, base=compute, compute=compute, device="cpu")
    adapter = inject(make_decoder(spec), spec.kind, spec.adapter, spec.attention_type, spec.train_mlp, seed=1)
    adapter.network.config.is_turbo = turbo  # as ``load_dit`` sets it
    dtype, width = {"fp32": torch.float32, "bf16": torch.bfloat16}[compute], encoder_sizes(config)["hidden_size"]
    shapes = ((300, width), (1, width), (15_000, CHANNELS))
    condition = PromptCondition(*(torch.zeros(1, *shape, dtype=dtype) for shape in shapes))
    request = GenerationConfig(prompt="", duration_s=20, steps=1)
    with LiveBytes() as live:
        live.add([*adapter.network.parameters(), *adapter.network.buffers()])
        fixed = live.peak = live.now
        denoise(SimpleNamespace(is_turbo=turbo), adapter.network, condition, request)  # type: ignore[arg-type]
    assert preview_moments(spec, 20)["denoise"].working == pytest.approx(live.peak - fixed, rel=0.1)


def test_previews_of_any_length_fit_beside_a_run_on_a_gpu_with_8_gb() -> None:
    training, adapter = TrainingConfig(), LoRAConfig()
    apply_preset(training, adapter, "vram_8gb")
    spec = memory_spec(FAMILIES["2b"], training, adapter)
    short, usual, longest = (estimate_samples(spec, seconds) for seconds in (4, 30, 240))
    assert short.total <= usual.total <= longest.total < 6.5 * GIB
    assert "gradients" not in usual.parts


def test_one_model_at_a_time_is_beside_the_decoder() -> None:
    spec = memory_spec(FAMILIES["2b"], TrainingConfig(), LoRAConfig())
    moments = preview_moments(spec, 30)
    assert moments["encode"].loaded == pytest.approx(2 * 609e6, rel=0.01)
    assert moments["denoise"].loaded == 0
    assert moments["decode"].loaded == pytest.approx(2 * 169e6, rel=0.01)


def test_encoders_and_vae_take_fp32_beside_a_decoder_in_fp16() -> None:
    spec = memory_spec(FAMILIES["2b"], TrainingConfig(), LoRAConfig())
    half, full = (replace(spec, compute=compute, base=compute) for compute in ("fp16", "fp32"))
    assert preview_moments(half, 30)["decode"] == preview_moments(full, 30)["decode"]
