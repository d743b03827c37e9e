"""Bounds the memory of a loaded Qwen2.5-Omni: temporary buffers that grow with the audio, and the embedding.

Four minutes of audio are 6,000 tokens. The changes compute the same values in parts or elsewhere.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from acestep.captioning.omni_memory import BLOCK_QUERIES, CHUNK_TOKENS, SEPARATE_MEMORY
from acestep.models.mps import attention_implementation

IN_BLOCKS = "sdpa_in_blocks"


def choose_attention(device: str, dtype: torch.dtype) -> str:
    """The attention implementation: in blocks where PyTorch 2.11 has no fused kernel for grouped causal queries.

    On CUDA only FlashAttention is one (transformers/cuda/sdp_utils.cpp): 16-bit numbers and compute capability 8.0.
    The one of MPS is wrong (models/mps.py); blocks have a mask instead of ``is_causal``.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        capable = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
        fused = capable and dtype != torch.float32
    else:
        fused = kind != "mps"
    if fused:
        return attention_implementation(device)
    AttentionInterface.register(IN_BLOCKS, attend_in_blocks)
    AttentionMaskInterface.register(IN_BLOCKS, sdpa_mask)
    return IN_BLOCKS


def attend_in_blocks(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """``sdpa_attention_forward`` of transformers, for a few queries at a time if it is causal.

    Args:
        query: [B, heads, T, d]; key, value: [B, key heads, T, d].

    Returns:
        [B, T, heads, d], and None for the attention weights.
    """
    causal = module.is_causal if is_causal is None else is_causal
    length = query.shape[2]
    if not causal or attention_mask is not None or length == 1:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, is_causal=is_causal, **more
        )
    parts = []
    for start in range(0, length, BLOCK_QUERIES):
        end = min(start + BLOCK_QUERIES, length)
        mask = torch.ones(1, 1, end - start, end, dtype=torch.bool, device=query.device).tril(start)
        keys, values = key[:, :, :end], value[:, :, :end]
        part, _ = sdpa_attention_forward(module, query[:, :, start:end], keys, values, mask, scaling=scaling, **more)
        parts.append(part)
    return torch.cat(parts, dim=1), None


def limit_memory(model: Any, device: str) -> None:
    """Compute the MLPs in chunks of tokens, logits of the last position only, and embeddings on the CPU.

    For four minutes of audio the MLPs would need 0.7 GB (1.2 GB in 8 bits) and all logits 1.8 GB. The embedding of 1 GB
    is a table of which one row per token is read.
    """
    for layer in model.model.language_model.layers:
        _split_tokens(layer.mlp)
    model.lm_head.register_forward_pre_hook(lambda _, states: (states[0][:, -1:],))
    if torch.device(device).type in SEPARATE_MEMORY:
        _look_up_on_cpu(model.get_input_embeddings(), device)


def _split_tokens(mlp: Any) -> None:
    whole = mlp.forward

    def forward(states: Tensor) -> Tensor:
        if states.shape[1] <= CHUNK_TOKENS:
            return whole(states)  # type: ignore[no-any-return]
        return torch.cat([whole(chunk) for chunk in torch.split(states, CHUNK_TOKENS, dim=1)], dim=1)

    mlp.forward = forward


def _look_up_on_cpu(embedding: Any, device: str) -> None:
    embedding.weight = torch.nn.Parameter(embedding.weight.cpu(), requires_grad=False)
    embedding.register_forward_pre_hook(lambda _, ids: (ids[0].cpu(),))
    embedding.register_forward_hook(lambda _, ids, rows: rows.to(device))
