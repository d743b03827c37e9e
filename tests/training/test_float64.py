"""A training step computes without float64, which MPS and some Intel GPUs lack."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from acestep.adapters.configs import ADAPTERS
from acestep.adapters.files import inject
from acestep.models.load import load_dit, load_null_condition
from acestep.training.data import collate, make_example
from acestep.training.distributed.placement import make_fabric
from acestep.training.flow_matching import FlowMatching
from acestep.training.optim.optimizers import OPTIMIZERS, make_optimizer
from acestep.training.state.ema import ExponentialMovingAverage
from tests.operations import Operations
from tests.training.songs import make_samples

CASES = [*((entry.name, "adamw") for entry in ADAPTERS), *(("lora", name) for name in OPTIMIZERS.names)]


@pytest.mark.parametrize(("kind", "optimizer_type"), CASES)
def test_a_training_step_needs_no_float64(kind: str, optimizer_type: str, tiny_checkpoint: Path) -> None:
    fabric, decoder = make_fabric(torch.device("cpu"), torch.bfloat16), load_dit(tiny_checkpoint)
    adapter = inject(decoder, kind, ADAPTERS[kind].config(), "both", True, seed=1)
    plain = make_optimizer(optimizer_type, adapter.parameters(), lr=1e-3, weight_decay=0.01)
    average = ExponentialMovingAverage(adapter.parameters(), 0.9)
    model, optimizer = fabric.setup(FlowMatching(adapter.network, load_null_condition(tiny_checkpoint)), plain)
    width = decoder.config.encoder_hidden_size or decoder.config.hidden_size
    generator, samples = torch.Generator().manual_seed(0), make_samples([(20, 5), (17, 7)], width)
    batch = collate([make_example(sample.record.crop(), generator=generator, t=0.5) for sample in samples])
    for _ in range(2):  # in the second one the optimizer has its state
        with Operations() as operations:
            fabric.backward(model(batch).sum())
            fabric.clip_gradients(model, optimizer, max_norm=1.0, error_if_nonfinite=False)
            optimizer.step()
            average.update()
        assert operations.calls
        assert not operations.in_float64()
