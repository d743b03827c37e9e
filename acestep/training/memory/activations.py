"""Computes the activations that the decoder saves for the backward pass from its shapes.

Each term is a tensor that autograd saves in diffusers 0.42.1 (models/transformers/ace_step_transformer.py) or in the
adapters. Linear layers with frozen weights save nothing; norms, elementwise products and attention save their inputs.
Symbols: H hidden size, Q and K widths of queries and keys, I intermediate size of the MLP; n patches and m condition
tokens of a batch. Importing this module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from acestep.adapters.configs import ADAPTERS, AdapterConfig
from acestep.adapters.memory import FP32, ComputeDtype, Cost, Layer
from acestep.models.weight_shapes import encoder_sizes

PATCH = 2  # latent frames in a patch
CHANNELS = 64
_BRANCHES = {"both": ("self_attn", "cross_attn"), "self": ("self_attn",), "cross": ("cross_attn",)}


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a block: bytes of activations saved for its backward pass, and of temporary buffers in it."""

    saved: int
    working: int


@dataclass(frozen=True)
class Passes:
    """One forward and backward pass over a batch.

    Attributes:
        config: config.json of the base model.
        kind, adapter, attention_type, train_mlp: the trained adapter and its target modules.
        frames, tokens, batch_size: latent frames and condition tokens per sample, samples per batch.
        padded: batches contain samples of different lengths, so attention needs masks.
        arithmetic: dtype of the forward pass.
        scores: where attention has no fused kernel and saves its weights: "" nowhere, "masked" or "all".
    """

    config: Mapping[str, Any]
    kind: str
    adapter: AdapterConfig
    attention_type: str
    train_mlp: bool
    frames: int
    tokens: int
    batch_size: int
    padded: bool
    arithmetic: ComputeDtype
    scores: str

    @property
    def depth(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def _heads(self) -> int:
        return int(self.config["num_attention_heads"])

    @property
    def _key_heads(self) -> int:
        return int(self.config["num_key_value_heads"])

    @cached_property
    def _widths(self) -> tuple[int, int, int, int]:
        """H, Q, K, I."""
        config, head = self.config, self.config["head_dim"]
        queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
        return config["hidden_size"], queries, keys, config["intermediate_size"]

    @property
    def _length(self) -> int:
        """Patches per sample."""
        return -(-self.frames // PATCH)

    @property
    def _rows(self) -> tuple[int, int]:
        """n, m."""
        return self.batch_size * self._length, self.batch_size * self.tokens

    def _trains(self, branch: str) -> bool:
        return branch in _BRANCHES[self.attention_type]

    def batch(self) -> int:
        """Latents, noise, context and condition, in fp32."""
        width = encoder_sizes(self.config)["hidden_size"]
        return FP32 * self.batch_size * (self.frames * 4 * CHANNELS + self.tokens * width)

    def shared(self, *, checkpointed: bool) -> int:
        """Tensors shared by all blocks: rotary embedding, sliding mask, modulation and, if saved, the condition."""
        size, (width, *_), (_, m) = self.arithmetic.size, self._widths, self._rows
        masks = self.batch_size * self._pairs_in_windows * (self._heads // self._key_heads) if self._has_windows else 0
        rotary = 2 * self._length * int(self.config["head_dim"]) * FP32
        condition = m * width if checkpointed or self._trains("cross_attn") else 0
        return rotary + size * (masks + 6 * self.batch_size * width + condition)

    def block_input(self) -> int:
        """Bytes of the input of a block, which a checkpointed one saves."""
        return self._rows[0] * self._widths[0] * self.arithmetic.hidden

    def stages(self, index: int, unpacked: int) -> list[Stage]:
        """Self-attention, cross-attention and MLP of a block.

        ``unpacked`` bytes hold a quantized weight while its product is made.
        """
        size, (width, queries, keys, inner), (n, m) = self.arithmetic.size, self._widths, self._rows
        layers = self._layers(index)
        found = []
        for branch, rows, arrives in (("self_attn", n, index > 0), ("cross_attn", m, self._reaches(index))):
            trains = branch in _BRANCHES[self.attention_type]
            saved = self._norm(width, n) if arrives else 0
            if arrives or trains:
                both = trains or branch == "self_attn"  # without an adapter no gradient goes to the condition
                saved += self._head_norms(queries, n) + (self._head_norms(keys, rows) if both else 0)
                saved += self._attention(index, branch, rows)
            working = 2 * FP32 * self._pairs(index, branch) + n * size * 2 * (width + queries)
            found.append(self._stage(layers, branch, saved, working, n * size * 2 * width + unpacked))
        modulation = self.batch_size * width * (6 * size + 2 * FP32)  # of the norms, in fp32
        saved = self._norm(width, n) + 2 * n * inner * size + modulation
        working = n * size * (3 * inner + 2 * width)  # gradients of a product and of both its sides, and of the stream
        found.append(self._stage(layers, "mlp", saved, working, n * size * (inner + 2 * width) + unpacked))
        return found

    def costs(self, index: int) -> list[Cost]:
        """Memory costs of the adapters in a block."""
        return [self._cost(layer) for layer in self._layers(index)]

    def _cost(self, layer: Layer) -> Cost:
        """Memory cost of one adapter; zero if it is unknown for this kind."""
        cost = ADAPTERS[self.kind].memory_cost
        return cost(self.adapter, layer, self.arithmetic) if cost else Cost(weights=(), saved=0, casts=0)

    def _stage(self, layers: list[Layer], part: str, saved: int, working: int, beside: int) -> Stage:
        """The stage with the adapters in ``part``; ``beside`` bytes of buffers coexist with those of an adapter."""
        costs = [self._cost(layer) for layer in layers if f".{part}." in layer.name]
        own = max((cost.working for cost in costs), default=0)
        return Stage(saved + sum(cost.saved + cost.casts for cost in costs), max(working, beside + own))

    def _reaches(self, index: int) -> bool:
        """Whether a gradient flows through the input of the cross-attention: not before the first adapter."""
        return index > 0 or self._trains("self_attn")

    def _norm(self, width: int, rows: int) -> int:
        """RMSNorm between the parts of a block saves its input, and the inverse root mean square of each row."""
        return rows * (width * self.arithmetic.hidden + FP32)

    def _head_norms(self, width: int, rows: int) -> int:
        """RMSNorm of each head of queries or keys."""
        return rows * (width * self.arithmetic.size + FP32 * (width // int(self.config["head_dim"])))

    def _attention(self, index: int, branch: str, rows: int) -> int:
        """Inputs, output and log-sum-exp; without a fused kernel, inputs and all weights, in fp32."""
        size, (_, queries, keys, _), (n, _) = self.arithmetic.size, self._widths, self._rows
        if self._in_windows(index, branch):
            n = self.batch_size * self._blocks * self._window  # the last block is filled up
            around = 3 * self._blocks if self.batch_size > 1 else self._blocks + 2  # windows of one sample share memory
            rows = self.batch_size * around * self._window
        if pairs := self._pairs(index, branch):
            return FP32 * (pairs + n * queries + 2 * rows * keys)
        return 2 * size * (n * queries + rows * keys) + FP32 * n * self._heads

    def _pairs(self, index: int, branch: str) -> int:
        """Number of saved attention weights; 0 with a fused kernel."""
        if self.scores == "" or (self.scores == "masked" and not self._is_masked(index, branch)):
            return 0
        if self._in_windows(index, branch):
            return self.batch_size * self._heads * self._pairs_in_windows
        others = self._length if branch == "self_attn" else self.tokens
        return self.batch_size * self._heads * self._length * others

    def _is_masked(self, index: int, branch: str) -> bool:
        return self.padded or self._in_windows(index, branch)

    def _in_windows(self, index: int, branch: str) -> bool:
        """Whether attention is computed block by block (models/attention.py)."""
        types = self.config["layer_types"]
        slides = types[index] == "sliding_attention" if types else index % 2 == 0
        return branch == "self_attn" and slides and self._has_windows

    @property
    def _window(self) -> int:
        return int(self.config["sliding_window"])

    @property
    def _has_windows(self) -> bool:
        return self.padded or self._length > self._window + 1

    @property
    def _blocks(self) -> int:
        return -(-self._length // self._window)

    @property
    def _pairs_in_windows(self) -> int:
        """Pairs of queries and keys per sample: each block attends to itself and its two neighbors."""
        return self._blocks * self._window * 3 * self._window

    def _layers(self, index: int) -> list[Layer]:
        """The layers with an adapter, in the order of the forward pass."""
        (width, queries, keys, inner), (n, m) = self._widths, self._rows
        found = list[Layer]()
        for branch in _BRANCHES[self.attention_type]:
            prefix, crosses = f"layers.{index}.{branch}.", branch == "cross_attn"
            passes = self._reaches(index) if crosses else index > 0
            found.append(Layer(f"{prefix}q_proj", queries, width, n, kept=False, shares=False, passes=passes))
            for name in ("k_proj", "v_proj"):
                if crosses:  # the condition is one tensor for all blocks
                    shares = name == "v_proj"
                    found.append(Layer(prefix + name, keys, width, m, kept=True, shares=shares, passes=False))
                else:
                    found.append(Layer(prefix + name, keys, width, n, kept=True, shares=True, passes=passes))
            found.append(Layer(f"{prefix}o_proj", width, queries, n, kept=False, shares=False, passes=True))
        if self.train_mlp:
            prefix = f"layers.{index}.mlp."
            found.append(Layer(f"{prefix}gate_proj", inner, width, n, kept=False, shares=False, passes=True))
            found.append(Layer(f"{prefix}up_proj", inner, width, n, kept=True, shares=True, passes=True))
            found.append(Layer(f"{prefix}down_proj", width, inner, n, kept=False, shares=False, passes=True))
        return found

    def ends_saved(self) -> int:
        """Activations of the last norm, the input of the last layer, and the prediction error."""
        width, rows = self._widths[0], self._rows[0]
        error = FP32 * CHANNELS * self.batch_size * self.frames
        return self._norm(width, rows) + rows * width * self.arithmetic.size + error

    def ends_working(self) -> int:
        """Temporary buffers in either pass of the last norm: four times its input in fp32."""
        return 4 * FP32 * self._rows[0] * self._widths[0]
