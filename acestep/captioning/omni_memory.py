"""Estimates the memory of a Qwen2.5-Omni model that describes audio, before anything is loaded. Imports no torch.

The model is loaded without its vision tower, talker and token2wav. bitsandbytes quantizes the linear layers of the text
model only: embedding, output head and audio tower keep the dtype of the computation. While it quantizes, it holds one
weight in that dtype and in fp16 beside the finished weights (``Bnb8bitQuantize`` in transformers 5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

GIB = 2**30
Quantization = Literal["none", "8bit", "4bit"]

CHUNK_TOKENS = 1024
"""Tokens that the MLPs process at once (omni_buffers.py)."""
BLOCK_QUERIES = 128
"""Queries that attention processes at once where it has no fused kernel (omni_buffers.py)."""

_TOKENS_PER_S = 25
_PROMPT_TOKENS = 200  # system prompt, chat template and question
_FRAMES_PER_TOKEN = 2  # frames of the audio tower's layers, which are 20 ms long; its input has twice as many
_FP32, _FP16, _INT8 = 4, 2, 1
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes per weight: 64 weights share a scale, which is quantized to 8 bits in groups of 256 with a scale in fp32."""

SEPARATE_MEMORY = ("cuda", "xpu")
"""Devices whose memory is not that of the CPU."""
_PROGRAM = {"cpu": int(1.8 * GIB)}
_PROGRAM_GPU = int(0.6 * GIB)
"""Besides tensors: CUDA and its libraries on a GPU, the process and all its libraries on a CPU."""
_SLACK = 0.1
"""Memory that allocators reserve beyond the cache and the temporary buffers."""


@dataclass(frozen=True, slots=True)
class OmniSizes:
    """The sizes that memory depends on. The defaults are those of Qwen2.5-Omni-7B, which ACE-Step's models share."""

    vocab_size: int = 152_064
    hidden_size: int = 3584
    intermediate_size: int = 18_944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int = 4
    d_model: int = 1280
    encoder_ffn_dim: int = 5120
    encoder_layers: int = 32
    num_mel_bins: int = 128
    max_source_positions: int = 1500

    @classmethod
    def of(cls, thinker: Mapping[str, Any]) -> OmniSizes:
        """The sizes in ``thinker_config`` of a config.json. Sizes that it does not state are those of the 7B model."""
        stated: dict[str, Any] = {}
        for part in ("text_config", "audio_config"):
            stated |= thinker.get(part) or {}
        names = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in stated.items() if name in names and isinstance(value, int)})

    @property
    def kv_width(self) -> int:
        """Width of the keys of a layer, and of its values."""
        return self.hidden_size // self.num_attention_heads * self.num_key_value_heads

    @property
    def linear_weights(self) -> int:
        """Numbers in the linear layers of the text model, without biases: what bitsandbytes quantizes."""
        width, mlp = self.hidden_size, self.intermediate_size
        return self.num_hidden_layers * width * (2 * width + 2 * self.kv_width + 3 * mlp)

    @property
    def linear_rows(self) -> int:
        """Rows of these layers, each of which has a scale in 8 bits."""
        width, mlp = self.hidden_size, self.intermediate_size
        return self.num_hidden_layers * (3 * width + 2 * self.kv_width + 2 * mlp)

    @property
    def other_weights(self) -> int:
        """Numbers in embedding, output head, norms and biases of the text model and in the audio tower."""
        width, audio, ffn = self.hidden_size, self.d_model, self.encoder_ffn_dim
        text = 2 * self.vocab_size * width + width + self.num_hidden_layers * (3 * width + 2 * self.kv_width)
        convolutions = 3 * audio * (self.num_mel_bins + audio) + 2 * audio
        layer = 4 * audio * audio + 3 * audio + 4 * audio + 2 * audio * ffn + ffn + audio
        return text + convolutions + self.encoder_layers * layer + 2 * audio + audio * width + width + 2 * width

    def weight_bytes(self, quantization: Quantization, dtype_bytes: int) -> int:
        """Bytes of all weights and constants."""
        packed = {
            "none": dtype_bytes * self.linear_weights,
            "8bit": _INT8 * self.linear_weights + _FP32 * self.linear_rows,
            "4bit": _NF4 * self.linear_weights,
        }
        positions = _FP32 * self.max_source_positions * self.d_model
        return int(packed[quantization]) + dtype_bytes * self.other_weights + positions


@dataclass(frozen=True, slots=True)
class OmniMemory:
    """Estimated bytes on the device.

    Attributes:
        weights: all weights.
        on_cpu: the embedding, which is moved to the CPU after loading (omni_buffers.py).
        loading: temporary buffers of quantization.
        cache, buffers: the key-value cache and the largest temporary buffers while a window is described.
        reserved: what the allocator reserves beyond cache and buffers.
        program: what the process takes besides tensors.
    """

    weights: int
    on_cpu: int
    loading: int
    cache: int
    buffers: int
    reserved: int
    program: int

    @property
    def needed(self) -> int:
        """The peak of a process that runs already: while it loads the model or while it describes a window."""
        return self.weights + max(self.loading, self.cache + self.buffers + self.reserved - self.on_cpu)

    @property
    def total(self) -> int:
        """The peak including the process."""
        return self.needed + self.program


def omni_memory(
    quantization: Quantization = "none",
    *,
    sizes: OmniSizes | None = None,
    dtype_bytes: int = 2,
    window_s: float = 240.0,
    new_tokens: int = 2048,
    device: str = "cuda",
    fused: bool = True,
) -> OmniMemory:
    """The memory for a window of audio. The defaults are those of a captioning job on a recent GPU.

    Args:
        dtype_bytes: bytes of a number of the dtype that is computed in.
        new_tokens: the most tokens that are generated.
        device: type of the device: "cuda", "xpu", "mps" or "cpu".
        fused: attention has a fused kernel on the device (``omni_buffers.choose_attention``).
    """
    sizes = sizes or OmniSizes()
    tokens = _PROMPT_TOKENS + int(window_s * _TOKENS_PER_S)
    layer_cache = 2 * dtype_bytes * sizes.kv_width * (tokens + new_tokens)
    cache = layer_cache * (sizes.num_hidden_layers + 1)  # one layer more while it grows
    buffers = max(
        _audio_buffers(sizes, dtype_bytes, window_s, tokens),
        _text_buffers(sizes, quantization, dtype_bytes, tokens, fused=fused),
    )
    largest = sizes.hidden_size * sizes.intermediate_size
    return OmniMemory(
        weights=sizes.weight_bytes(quantization, dtype_bytes),
        on_cpu=dtype_bytes * sizes.vocab_size * sizes.hidden_size if device in SEPARATE_MEMORY else 0,
        loading=0 if quantization == "none" else largest * (dtype_bytes + _FP16),
        cache=cache,
        buffers=buffers,
        reserved=int(_SLACK * (cache + buffers)),
        program=_PROGRAM.get(device, _PROGRAM_GPU),
    )


def gpu_memory(quantization: Quantization = "none") -> str:
    """The memory that a GPU needs for four minutes of audio in bf16, as in ``7.2 GB``."""
    return f"{omni_memory(quantization).total / GIB:.1f} GB"


def gpu_requirement() -> str:
    """A part of a sentence: the memory with each quantization."""
    eight, four = gpu_memory("8bit"), gpu_memory("4bit")
    return f"{gpu_memory()} of GPU memory, {eight} with 8-bit weights or {four} with 4-bit weights"


def _audio_buffers(sizes: OmniSizes, dtype_bytes: int, window_s: float, tokens: int) -> int:
    """In the MLP of a layer of the audio tower: two signals of its width, four of the tower, the features twice."""
    frames = _FRAMES_PER_TOKEN * int(window_s * _TOKENS_PER_S)
    per_frame = 2 * sizes.encoder_ffn_dim + 4 * sizes.d_model + 4 * sizes.num_mel_bins
    return dtype_bytes * (frames * per_frame + tokens * sizes.hidden_size)


def _text_buffers(sizes: OmniSizes, quantization: Quantization, dtype_bytes: int, tokens: int, *, fused: bool) -> int:
    """The fullest moment of a layer of the text model: in attention or in the MLP.

    Kept meanwhile: embeddings, audio features, input of the layer, input of the MLP or of attention, and the features.
    """
    width, mlp = sizes.hidden_size, sizes.intermediate_size
    chunk = min(tokens, CHUNK_TOKENS)
    features = 2 * _FRAMES_PER_TOKEN * sizes.num_mel_bins
    rotary = 2 * width // sizes.num_attention_heads
    kept = dtype_bytes * tokens * (4 * width + features + rotary)
    attention = dtype_bytes * tokens * 4 * width  # queries while they are rotated
    in_mlp = dtype_bytes * 3 * chunk * mlp
    if quantization == "8bit":  # input in fp16 and int8; output in int32, fp16 and the dtype
        product = _FP16 + _INT8 + 4 + _FP16 + dtype_bytes
        attention = max(attention, tokens * width * product)
        in_mlp = chunk * mlp * (4 + _FP16 + 2 * dtype_bytes)
    elif quantization == "4bit":  # the weight in the dtype
        in_mlp = max(in_mlp, dtype_bytes * (2 * chunk * mlp + width * mlp))
    if not fused:  # output; keys and values of all heads, which are also cast to fp32; scores and their softmax in fp32
        block = _FP32 * 2 * sizes.num_attention_heads * min(tokens, BLOCK_QUERIES) * tokens
        casts = 2 * _FP32 if dtype_bytes < _FP32 else 0
        attention = max(attention, tokens * width * (3 * dtype_bytes + casts) + block)
    outputs = dtype_bytes * tokens * width
    return kept + max(attention, outputs + max(outputs, in_mlp))
