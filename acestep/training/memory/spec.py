"""The inputs of the memory estimate, derived from the settings of a run. Importing this does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from acestep.adapters.configs import AdapterConfig
from acestep.adapters.memory import ComputeDtype
from acestep.models.weight_shapes import DEFAULTS
from acestep.training.configs import TrainingConfig
from acestep.training.memory.activations import Passes

SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes per element."""

PACKED = {"int8": 1.0, "nf4": 0.5 + 2 / 64}
"""Bytes of a number of a quantized base (models/quantize.py): nf4 has a bf16 scale for each 64."""

FAMILIES: dict[str, Mapping[str, Any]] = {
    "2b": DEFAULTS,
    "xl": {
        **DEFAULTS,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "encoder_hidden_size": 2048,
        "encoder_intermediate_size": 6144,
        "encoder_num_attention_heads": 16,
        "encoder_num_key_value_heads": 8,
    },
}
"""config.json of both families, as far as shapes go."""


FRAMES_PER_S = 25
LONGEST_S = 240.0  # the default maximum duration of preprocessing
USUAL_TOKENS = 512  # a description and the lyrics of a song; 2,305 at most

_COMPUTE = {"cuda": "bf16", "xpu": "bf16", "mps": "fp32", "cpu": "fp32"}  # what "auto" stands for


@dataclass(frozen=True)
class MemorySpec:
    """Everything that the memory of a run depends on.

    Attributes:
        config: the full config.json of the base model.
        kind, adapter, attention_type, train_mlp: the trained adapter and its target modules.
        frames, tokens: lengths of the longest crop (25 frames per second) and of the longest condition.
        batch_size, accumulation: samples per batch, and micro-batches per optimizer step.
        padded: batches contain samples of different lengths.
        base: dtype of the frozen weights; compute: dtype of the computation.
        optimizer: name of the optimizer.
        checkpoint_every: recompute the activations of every n-th block; 0 for none.
        offload: keep the inputs of recomputed blocks in CPU memory.
        ema: also keep a moving average of the adapter.
        device: "cuda", "xpu", "mps" or "cpu".
        auto_checkpointing: ``automatic.choose`` may change ``checkpoint_every`` and ``offload``.
        auto_base: ``automatic.choose`` may change ``base``.
        sharded: the base model is sharded over devices (fsdp).
        bf16: the device computes in bf16.
        dataset_bytes: bytes of the tensors to train on; 0 if unknown.
        dataset_on_device: they are in the memory of the device; ``automatic.choose`` decides it.
    """

    config: Mapping[str, Any]
    kind: str
    adapter: AdapterConfig
    attention_type: str = "both"
    train_mlp: bool = False
    frames: int = 1500
    tokens: int = 512
    batch_size: int = 1
    accumulation: int = 1
    padded: bool = False
    base: str = "bf16"
    compute: str = "bf16"
    optimizer: str = "adamw"
    checkpoint_every: int = 0
    offload: bool = False
    ema: bool = False
    device: str = "cuda"
    auto_checkpointing: bool = False
    auto_base: bool = False
    sharded: bool = False
    bf16: bool = True
    dataset_bytes: int = 0
    dataset_on_device: bool = False

    @cached_property
    def passes(self) -> Passes:
        """The forward and backward pass over one batch."""
        return Passes(
            config=self.config,
            kind=self.kind,
            adapter=self.adapter,
            attention_type=self.attention_type,
            train_mlp=self.train_mlp,
            frames=self.frames,
            tokens=self.tokens,
            batch_size=self.batch_size,
            padded=self.padded and self.batch_size > 1,
            arithmetic=ComputeDtype(
                SIZES[self.compute], 4 if self.compute == "fp16" else SIZES[self.compute], fused=self.has_own_memory
            ),
            scores=self._scores,
        )

    @property
    def may_quantize(self) -> bool:
        """Whether device, strategy and adapter take a quantized base model: bitsandbytes has no kernels for MPS."""
        return self.device != "mps" and not self.sharded and not self.adapter.needs_exact_weights

    @property
    def has_own_memory(self) -> bool:
        """Whether the memory of the device is separate from that of the CPU."""
        return self.device in ("cuda", "xpu")

    @property
    def _scores(self) -> str:
        """CUDA has a fused kernel for every dtype and mask, MPS none that trains."""
        if self.device in ("cpu", "cuda"):
            return ""
        return "masked" if self.device == "xpu" and self.compute == "bf16" else "all"


def memory_spec(
    config: Mapping[str, Any],
    training: TrainingConfig,
    adapter: AdapterConfig,
    *,
    device: str = "cuda",
    longest: int = int(LONGEST_S * FRAMES_PER_S),
    tokens: int = USUAL_TOKENS,
    songs: int | None = None,
    bf16: bool = True,
    sharded: bool = False,
    dataset_bytes: int = 0,
) -> MemorySpec:
    """The spec of a run with these settings on a checkpoint of that ``config``, before automatic choices.

    Args:
        longest, tokens: frames of the longest song, and tokens of the longest condition.
        songs: number of samples, which limits the batch size; None if unknown.
        bf16: a CUDA device computes in bf16, so a precision of "auto" stands for it.
        sharded: the base model is sharded over devices (fsdp).
        dataset_bytes: bytes of the tensors to train on; 0 if unknown.
    """
    automatic = "fp32" if device == "cuda" and not bf16 else _COMPUTE[device]
    compute = automatic if training.mixed_precision == "auto" else training.mixed_precision
    batch_size = training.batch_size if songs is None else max(1, min(training.batch_size, songs))
    return MemorySpec(
        config=config,
        kind=training.adapter_type,
        adapter=adapter,
        attention_type=training.attention_type,
        train_mlp=training.train_mlp,
        frames=min(training.max_latent_length or longest, longest),
        tokens=tokens,
        batch_size=batch_size,
        accumulation=training.gradient_accumulation_steps,
        padded=batch_size > 1,
        base=compute if training.base_precision == "auto" else training.base_precision,
        compute=compute,
        optimizer=training.optimizer_type,
        checkpoint_every={"on": training.gradient_checkpointing_every, "offload": 1}.get(
            training.gradient_checkpointing, 0
        ),
        offload=training.gradient_checkpointing == "offload",
        ema=training.ema_decay > 0,
        device=device,
        auto_checkpointing=training.gradient_checkpointing == "auto",
        auto_base=device == "cuda" and not bf16 and training.base_precision == training.mixed_precision == "auto",
        sharded=sharded,
        bf16=bf16 and device != "mps",
        dataset_bytes=dataset_bytes,
    )
