"""Estimates the peak memory of a training run before anything is loaded.

Closed formulas over the model's shapes, calibrated against the bytes of live tensors of scaled-down models. Importing
this module does not import torch, so a page can update the estimate while settings change.

While a run trains, only the decoder, the null condition, the adapter and its optimizer are on the device: the condition
encoder, the audio tokenizer, the VAE and the text encoder are used during preprocessing only. Encoder offloading, as in
ace-lora-trainer, would therefore save nothing. ``memory.previews`` estimates the peak while audio previews
are generated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from acestep.adapters.configs import ADAPTERS
from acestep.adapters.memory import FP32, numel
from acestep.models.weight_shapes import expected_shapes
from acestep.training.memory.spec import PACKED, SIZES, MemorySpec
from acestep.training.optim.optimizer_memory import Shapes
from acestep.training.optim.optimizers import OPTIMIZERS

GIB = 2**30

PROGRAM = {"cuda": 0.7 * GIB, "xpu": 0.7 * GIB, "mps": 0.7 * GIB, "cpu": 1.8 * GIB}
"""Besides tensors: CUDA and its libraries on a GPU, the process and all its libraries on a CPU."""

SLACK = {"cuda": 0.04, "xpu": 0.04, "mps": 0.04, "cpu": 0.25}
"""Memory that allocators reserve beyond tensors, as a fraction of activations and temporary buffers. On GPUs it is the
rounding of sizes (dev/caching_allocator.py), on CPUs it was measured at full size."""

FRAGMENTS = {"cuda": 0.5, "xpu": 0.5, "mps": 0.5, "cpu": 0.0}
"""Memory between tensors that no other tensor fits into, as a fraction of the activations of one block."""

PARTS = {
    "model": "decoder and null condition",
    "adapter": "adapter in fp32",
    "optimizer": "optimizer state",
    "average": "moving average of the adapter (EMA)",
    "dataset": "dataset",
    "batch": "batch",
    "gradients": "gradients of the adapter",
    "activations": "activations",
    "working": "temporary buffers",
    "sampling": "encoder or VAE, during audio previews only",
    "program": "process, libraries and reserved memory",
}
"""Label of each part of an estimate."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated bytes at the peak.

    Attributes:
        parts: name of the part (``PARTS``) -> bytes.
        unknown: parts that cannot be estimated, because a registered optimizer or adapter kind states no memory.
            They count as 0 bytes, so ``total`` is a lower bound.
    """

    parts: dict[str, int]
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def tensors(self) -> int:
        """Bytes of tensors, without the process itself."""
        return self.total - self.parts["program"]

    def fits(self, free: float) -> bool:
        """Whether ``free`` bytes are enough. With ``unknown`` parts, True only means that the known parts fit."""
        return self.total <= free


def estimate(spec: MemorySpec) -> Estimate:
    """The peak of a run, which is in its second step, when the optimizer state exists."""
    peak = max(_moments(spec), key=lambda moment: sum(moment.values()))
    kept = SLACK[spec.device] * (peak["activations"] + peak["working"]) + FRAGMENTS[spec.device] * _largest_block(spec)
    return Estimate({**resident(spec), **peak, "program": int(PROGRAM[spec.device] + kept)}, _unknown(spec))


def _unknown(spec: MemorySpec) -> tuple[str, ...]:
    """The parts that depend on facts that the registries lack."""
    optimizer = OPTIMIZERS[spec.optimizer]
    if ADAPTERS[spec.kind].memory_cost is None:
        parts = ("adapter", "optimizer", *(("average",) if spec.ema else ()), "gradients", "activations", "working")
    else:
        parts = () if optimizer.state_bytes else ("optimizer",)
        parts += () if optimizer.step_bytes else ("working",)
    return parts


def _optimizer_state(spec: MemorySpec, weights: Shapes) -> int:
    state_bytes = OPTIMIZERS[spec.optimizer].state_bytes
    return state_bytes(weights) if state_bytes and weights else 0


def _optimizer_step(spec: MemorySpec, weights: Shapes) -> int:
    step_bytes = OPTIMIZERS[spec.optimizer].step_bytes
    return step_bytes(weights, spec.device) if step_bytes and weights else 0


def frozen_bytes(config: Mapping[str, Any], base: str, compute: str) -> int:
    """The decoder and, in fp32, the null condition. Only the linear layers of the decoder's blocks are quantized."""
    total = 0.0
    for name, shape in expected_shapes(config).items():
        if name == "null_condition_emb":
            total += FP32 * prod(shape)
        elif name.startswith("decoder."):
            if base in PACKED and name.startswith("decoder.layers.") and name.endswith("_proj.weight"):
                rows = shape[0] * FP32 * (2 if base == "int8" else 1)  # the norms of rows; int8: their scales too
                total += prod(shape) * PACKED[base] + rows
            else:
                total += prod(shape) * SIZES[compute if base in PACKED else base]
    return int(total)


def resident(spec: MemorySpec) -> dict[str, int]:
    """Bytes allocated from the first step to the last."""
    costs = [cost for index in range(spec.passes.depth) for cost in spec.passes.costs(index)]
    weights = [shape for cost in costs for shape in cost.weights]
    trained = numel(weights)
    return {
        "model": frozen_bytes(spec.config, spec.base, spec.compute),
        "adapter": FP32 * (trained + sum(cost.constants for cost in costs)),
        "optimizer": _optimizer_state(spec, weights),
        "average": FP32 * trained if spec.ema else 0,
        "dataset": spec.dataset_bytes if spec.dataset_on_device else 0,
        "batch": spec.passes.batch(),
    }


def _moments(spec: MemorySpec) -> Iterator[dict[str, int]]:
    """The bytes that vary within a step, at each point that can be the peak."""
    passes, unpacked = spec.passes, _unpacked(spec)
    costs = [passes.costs(index) for index in range(passes.depth)]
    trained = [FP32 * sum(numel(cost.weights) for cost in block) for block in costs]
    stages = [passes.stages(index, unpacked) for index in range(passes.depth)]
    again = [spec.checkpoint_every > 0 and index % spec.checkpoint_every == 0 for index in range(passes.depth)]
    full = [sum(stage.saved for stage in block) for block in stages]
    entry = 0 if spec.offload and spec.has_own_memory else passes.block_input()
    kept = [entry if redo else whole for redo, whole in zip(again, full, strict=True)]
    shared = passes.shared(checkpointed=any(again))

    def moment(gradients: int, activations: int, working: int) -> dict[str, int]:
        gradients = sum(trained) if spec.accumulation > 1 else gradients
        return {"gradients": gradients, "activations": activations, "working": working}

    casts = 0  # of recomputed blocks: autocast caches them until the end of the forward pass
    for index, block in enumerate(stages):  # forward pass
        casts += sum(cost.casts for cost in costs[index]) if again[index] else 0
        for number, stage in enumerate(block):
            saved = entry if again[index] else sum(earlier.saved for earlier in block[: number + 1])
            working = stage.working if again[index] else stage.working // 2  # nothing else keeps its tensors
            yield moment(0, shared + sum(kept[:index]) + saved, casts + working)
    yield moment(0, shared + sum(kept) + passes.ends_saved(), casts + passes.ends_working())
    for index, block in enumerate(stages):  # backward pass of this block, last stage first
        before = shared + sum(kept[:index]) + (passes.block_input() if again[index] else 0)
        for number, stage in enumerate(block):
            saved = before + sum(earlier.saved for earlier in block[: number + 1])
            yield moment(sum(trained[index + 1 :]), saved, stage.working)
    weights = [shape for block in costs for cost in block for shape in cost.weights]
    yield moment(sum(trained), 0, _optimizer_step(spec, weights))


def _largest_block(spec: MemorySpec) -> int:
    """The most bytes that the activations of a block take while its backward pass begins."""
    stages = [spec.passes.stages(index, _unpacked(spec)) for index in range(spec.passes.depth)]
    return max(sum(stage.saved for stage in block) + block[-1].working for block in stages)


def _unpacked(spec: MemorySpec) -> int:
    """The largest quantized weight, dequantized for its matrix product."""
    if spec.base not in PACKED:
        return 0
    shapes = expected_shapes(spec.config)
    largest = max(prod(shape) for name, shape in shapes.items() if name.startswith("decoder.layers."))
    return largest * SIZES[spec.compute]
