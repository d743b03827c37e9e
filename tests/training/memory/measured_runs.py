"""Two steps of training on a decoder of any size, with the bytes of its live tensors counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from acestep.adapters.files import inject
from acestep.models.dit import AceStepDiT
from acestep.models.quantize import QUANTIZED, quantize
from acestep.models.weight_shapes import DEFAULTS, encoder_sizes
from acestep.training.data import TrainingStep
from acestep.training.distributed.placement import make_fabric
from acestep.training.flow_matching import Batch, FlowMatching
from acestep.training.loop import Progress, StepReport, train
from acestep.training.memory.activations import CHANNELS
from acestep.training.memory.spec import MemorySpec
from acestep.training.optim.optimizers import make_optimizer
from acestep.training.state.ema import ExponentialMovingAverage
from acestep.training.state.random_state import RandomState
from tests.live_bytes import LiveBytes

SMALL: dict[str, Any] = {
    **DEFAULTS,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
"""The 2B family, scaled."""

SMALL_XL: dict[str, Any] = {
    **SMALL,
    "hidden_size": 160,
    "intermediate_size": 608,
    "num_attention_heads": 8,
    "encoder_hidden_size": 128,
    "encoder_intermediate_size": 384,
    "encoder_num_attention_heads": 4,
    "encoder_num_key_value_heads": 2,
}
"""The XL family, scaled."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DECODER_KEYS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "in_channels", "audio_acoustic_hidden_dim", "patch_size", "layer_types", "encoder_hidden_size"),
    *("rope_theta", "rms_norm_eps", "sliding_window"),
)
STEPS = 2  # in the second one the optimizer has its state


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of live tensors: before the first step, after the last, and at the fullest moment between."""

    loaded: int
    resting: int
    peak: int


class _Nobody:
    """Watches nothing and never ends a run."""

    def after_step(self, report: StepReport) -> bool:
        return False


def make_decoder(spec: MemorySpec) -> AceStepDiT:
    """A frozen decoder on the CPU with seeded weights of no meaning."""
    with torch.device("meta"):
        decoder = AceStepDiT(**{key: spec.config[key] for key in DECODER_KEYS})
    generator = torch.Generator().manual_seed(1)
    for module in decoder.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            values = torch.empty(parameter.shape, dtype=DTYPES[spec.compute]).normal_(0, 0.02, generator=generator)
            setattr(module, name, torch.nn.Parameter(values, requires_grad=False))
    if spec.base in QUANTIZED:
        quantize(decoder, spec.base)
    if spec.checkpoint_every:
        decoder.enable_gradient_checkpointing()
        decoder.checkpoint_every = spec.checkpoint_every
    return decoder.eval()


def measure(spec: MemorySpec, ready: Callable[[], None] = lambda: None) -> Measured:
    """Train on made-up songs as ``spec`` says, on the CPU. ``ready`` is called before the first step."""
    assert spec.device == "cpu"
    decoder = make_decoder(spec)
    adapter = inject(decoder, spec.kind, spec.adapter, spec.attention_type, spec.train_mlp, seed=1)
    null_condition = torch.zeros(1, 1, encoder_sizes(spec.config)["hidden_size"])
    fabric = make_fabric(torch.device("cpu"), DTYPES[spec.compute])
    plain = make_optimizer(spec.optimizer, adapter.parameters(), lr=1e-4, weight_decay=0.01)
    average = ExponentialMovingAverage(adapter.parameters(), 0.999) if spec.ema else None
    model, optimizer = fabric.setup(FlowMatching(adapter.network, null_condition), plain)
    model.train()
    with LiveBytes() as live:
        live.add([*model.parameters(), *model.buffers(), *(average.state()["average"] if average else [])])
        loaded = live.now
        ready()
        train(
            fabric=fabric,
            model=model,
            optimizer=optimizer,
            lr_at=lambda step: 1e-4,
            steps=_steps(spec),
            make_batch=lambda samples, epoch: make_batch(spec),
            progress=Progress(),
            random=RandomState(torch.device("cpu")),
            max_grad_norm=1.0,
            max_not_finite=1,
            callback=_Nobody(),
            stop_if_cancelled=lambda: None,
        )
        return Measured(loaded, live.now, live.peak)


def _steps(spec: MemorySpec) -> Iterator[TrainingStep]:
    samples = [[0] * spec.batch_size] * spec.accumulation
    return (TrainingStep(epoch, samples, ends_epoch=True) for epoch in range(STEPS))


def make_batch(spec: MemorySpec) -> Batch:
    """Songs of noise. They come from outside: nothing that was needed to make them is counted."""
    with _disable_current_modes():
        return noise_batch(spec)


def noise_batch(spec: MemorySpec) -> Batch:
    """Songs of noise; in a padded batch, all but the first are half as long."""
    count, frames, tokens = spec.batch_size, spec.frames, spec.tokens
    return Batch(
        latents=torch.randn(count, frames, CHANNELS),
        noise=torch.randn(count, frames, CHANNELS),
        context=torch.randn(count, frames, 2 * CHANNELS),
        condition=torch.randn(count, tokens, encoder_sizes(spec.config)["hidden_size"]),
        t=torch.full((count,), 0.5),
        dropped=torch.zeros(count, dtype=torch.bool),
        weight=torch.ones(count),
        frame_mask=_mask(count, frames) if spec.padded else None,
        token_mask=_mask(count, tokens) if spec.padded else None,
    )


def _mask(count: int, length: int) -> torch.Tensor:
    """The first song is whole, the others are half as long."""
    lengths = torch.tensor([length] + [length // 2] * (count - 1))
    return torch.arange(length) < lengths[:, None]
