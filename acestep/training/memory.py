"""How much memory a training run will take at its peak, before anything is loaded.

Closed formulas, counted from the model's shapes and calibrated against the bytes of live tensors of scaled models
(tests/measure_memory.py). Importing this does not import torch, so that a page can show the figure while settings
change.

Only the decoder, the null condition, the adapter and its optimizer are on the device while a run trains: the condition
encoder, the audio tokenizer, the VAE and the text encoder did their work when the songs were preprocessed. What the
existing trainer calls encoder offloading is therefore always so, and there is nothing more to save by it. What a run
that makes samples takes for that moment is told by ``memory_samples``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from acestep.models.layout import expected_shapes
from acestep.training.memory_adapters import FP32, numbers
from acestep.training.memory_optimizers import optimizer_bytes, step_bytes
from acestep.training.memory_spec import PACKED, SIZES, MemorySpec

GIB = 2**30

PROGRAM = {"cuda": 0.6 * GIB, "xpu": 0.6 * GIB, "mps": 0.6 * GIB, "cpu": 1.8 * GIB}
"""Beside the tensors: what CUDA and its libraries take on a card; on a CPU the program and all of its libraries."""

SLACK = {"cuda": 0.05, "xpu": 0.05, "mps": 0.05, "cpu": 0.25}
"""What allocators keep for later, as a share of what comes and goes. The CPU's figures were measured at full size, of
the graphics cards' none."""

PARTS = {
    "model": "frozen decoder and null condition",
    "adapter": "adapter, in fp32",
    "optimizer": "state of the optimizer",
    "average": "moving average of the adapter",
    "batch": "songs of a batch",
    "gradients": "gradients of the adapter",
    "activations": "kept from the forward pass for the backward pass",
    "working": "taken for a moment",
    "sampling": "text encoder, condition encoder and VAE, for samples alone",
    "program": "program, libraries, and what allocators keep",
}
"""The parts of an estimate, in words."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Predicted bytes at the moment of the peak, by what they are for."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def tensors(self) -> int:
        """Without what the program itself takes."""
        return self.total - self.parts["program"]

    def fits(self, free: float) -> bool:
        """Whether ``free`` bytes are enough."""
        return self.total <= free


def estimate(spec: MemorySpec) -> Estimate:
    """The peak of a run: the fullest of the moments of its second step, when the optimizer has its state."""
    moments = list(_moments(spec))
    peak = max(moments, key=lambda moment: sum(moment.values()))
    kept = SLACK[spec.device] * (peak["activations"] + peak["working"])
    return Estimate({**resident(spec), **peak, "program": int(PROGRAM[spec.device] + kept)})


def frozen_bytes(config: Mapping[str, Any], base: str, compute: str) -> int:
    """The decoder and, in fp32, the null condition. Quantised are the linear layers of its blocks alone."""
    total = 0.0
    for name, shape in expected_shapes(config).items():
        if name == "null_condition_emb":
            total += FP32 * prod(shape)
        elif name.startswith("decoder."):
            if base in PACKED and name.startswith("decoder.layers.") and name.endswith("_proj.weight"):
                rows = shape[0] * FP32 * (2 if base == "int8" else 1)  # the lengths of rows; int8: their scales too
                total += prod(shape) * PACKED[base] + rows
            else:
                total += prod(shape) * SIZES[compute if base in PACKED else base]
    return int(total)


def resident(spec: MemorySpec) -> dict[str, int]:
    """What is there from the first step to the last."""
    costs = [cost for index in range(spec.passes.depth) for cost in spec.passes.costs(index)]
    weights = [shape for cost in costs for shape in cost.weights]
    zeros = [shape for cost in costs for shape in cost.zeros]
    trained = numbers(weights)
    return {
        "model": frozen_bytes(spec.config, spec.base, spec.compute),
        "adapter": FP32 * (trained + sum(cost.constants for cost in costs)),
        "optimizer": optimizer_bytes(spec.optimizer, weights, zeros),
        "average": FP32 * trained if spec.ema else 0,
        "batch": spec.passes.batch(),
    }


def _moments(spec: MemorySpec) -> Iterator[dict[str, int]]:
    """What comes and goes, at each moment that can be the fullest."""
    passes, unpacked = spec.passes, _unpacked(spec)
    costs = [passes.costs(index) for index in range(passes.depth)]
    trained = [FP32 * sum(numbers(cost.weights) for cost in block) for block in costs]
    stages = [passes.stages(index, unpacked) for index in range(passes.depth)]
    again = [spec.checkpoint_every > 0 and index % spec.checkpoint_every == 0 for index in range(passes.depth)]
    full = [sum(stage.saved for stage in block) for block in stages]
    kept = [passes.block_input() if redo else whole for redo, whole in zip(again, full, strict=True)]
    shared = passes.shared(checkpointed=any(again))

    def moment(gradients: int, activations: int, working: int) -> dict[str, int]:
        gradients = sum(trained) if spec.accumulation > 1 else gradients
        return {"gradients": gradients, "activations": activations, "working": working}

    # The forward pass ends. Until then autocast holds the casts of all adapters.
    casts = sum(cost.casts for block, redo in zip(costs, again, strict=True) if redo for cost in block)
    yield moment(0, shared + sum(kept) + passes.ends_saved(), max(casts, passes.ends_working()))
    for index, block in enumerate(stages):  # the backward pass goes through this block, its last stage first
        before = shared + sum(kept[:index]) + (passes.block_input() if again[index] else 0)
        for number, stage in enumerate(block):
            saved = before + sum(earlier.saved for earlier in block[: number + 1])
            yield moment(sum(trained[index + 1 :]), saved, stage.working)
    weights = [shape for block in costs for cost in block for shape in cost.weights]
    yield moment(sum(trained), 0, step_bytes(spec.optimizer, weights, spec.device))


def _unpacked(spec: MemorySpec) -> int:
    """The largest quantised weight, as it is unpacked for its product."""
    if spec.base not in PACKED:
        return 0
    shapes = expected_shapes(spec.config)
    largest = max(prod(shape) for name, shape in shapes.items() if name.startswith("decoder.layers."))
    return largest * SIZES[spec.compute]
