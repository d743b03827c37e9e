"""Attention of the transformer: sliding windows block by block, and masks only where a batch is padded.

``AceStepAttention`` of diffusers gives sliding layers a dense mask of all pairs of tokens, and lets the attention
kernel repeat the key heads, which a GPU does only without a mask. Here a sliding layer computes the pairs of its
window only, and the query heads that share a key head are queries of that head, so no key is repeated.
Letters: B samples, T tokens, G query heads per key head, W tokens of the window on each side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name
from torch import Tensor, nn

from acestep.models.fused import Rotary, rms_norm, rotated_rms_norm
from acestep.models.imports import without_bitsandbytes
from acestep.models.projections import project

with without_bitsandbytes():
    from diffusers.models.normalization import RMSNorm
    from diffusers.models.transformers.ace_step_transformer import AceStepAttention


class WindowMask:
    """The keys that the queries of each block may attend to.

    Attributes:
        pairs: [1 or B, blocks, W, 3 W], True where a query of the block attends to a key of it or its neighbors.
        window: W.
    """

    def __init__(self, pairs: Tensor, window: int) -> None:
        self.pairs, self.window = pairs, window
        self._biases: dict[tuple[int, int, torch.dtype], Tensor] = {}

    @classmethod
    def of(cls, length: int, window: int, real: Tensor | None, device: torch.device) -> WindowMask | None:
        """The mask for ``length`` tokens, of which ``real`` [B, T] are no padding.

        None if the window reaches all tokens from everywhere and there is no padding.
        """
        if length <= window + 1 and real is None:
            return None
        blocks = -(-length // window)
        queries = torch.arange(window, device=device)[:, None]  # positions from the start of the block
        keys = torch.arange(-window, 2 * window, device=device)[None, :]
        distance = (queries - keys).abs()  # [W, 3 W]
        if real is None:
            real = torch.ones(1, length, dtype=torch.bool, device=device)
        around = F.pad(real, (window, (blocks + 1) * window - length)).unfold(1, 3 * window, window)  # [B, blocks, 3 W]
        # A padded token attends to itself: a row without a key would be NaN in some kernels.
        return cls((distance <= window) & around[:, :, None, :] | (distance == 0), window)

    def bias(self, batch: int, groups: int, dtype: torch.dtype) -> Tensor:
        """[B * blocks, 1, G * W, 3 W], 0 where a query may attend and minus infinity elsewhere.

        All layers share it: a boolean mask would be converted, and kept for the backward pass, in each.
        """
        key = (batch, groups, dtype)
        if key not in self._biases:
            pairs = self.pairs.expand(batch, -1, -1, -1).flatten(0, 1).repeat(1, groups, 1)[:, None]
            self._biases[key] = torch.zeros_like(pairs, dtype=dtype).masked_fill_(~pairs, -torch.inf)
        return self._biases[key]


def key_mask(real: Tensor | None) -> Tensor | None:
    """The mask [B, 1, 1, T] of keys that are no padding, ``real`` [B, T]."""
    return None if real is None else real[:, None, None, :]


class Attention(nn.Module):
    """``AceStepAttention`` with the same weights and state_dict keys.

    Args:
        source: the attention to take the modules of.
    """

    def __init__(self, source: AceStepAttention) -> None:
        super().__init__()
        self.head_dim, self.dropout = source.head_dim, source.dropout
        self.to_q, self.to_k, self.to_v, self.to_out = source.to_q, source.to_k, source.to_v, source.to_out
        self.norm_q, self.norm_k = source.norm_q, source.norm_k

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | WindowMask | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """Attend from ``hidden_states`` [B, T, D] to themselves or to ``encoder_hidden_states`` [B, L, D].

        Args:
            attention_mask: ``WindowMask`` of a sliding layer, ``key_mask`` of another, None to attend to all.
            image_rotary_emb: rotary embedding of the positions, for self-attention. The names are those of diffusers.
        """
        query, key, value = self._project(hidden_states, encoder_hidden_states)
        query = _normalized(self.norm_q, query, image_rotary_emb)
        key = _normalized(self.norm_k, key, image_rotary_emb)
        dropout = self.dropout if self.training else 0.0
        if isinstance(attention_mask, WindowMask):
            attended = _attend_in_windows(query, key, value, attention_mask, dropout)
        else:
            attended = _attend(query, key, value, attention_mask, dropout)
        for layer in self.to_out:
            attended = layer(attended)
        return attended

    def _project(self, hidden_states: Tensor, encoder_hidden_states: Tensor | None) -> list[Tensor]:
        """Queries, keys and values [B, T, heads, d]."""
        if encoder_hidden_states is None:
            found = project(hidden_states, self.to_q, self.to_k, self.to_v)
        else:
            found = [self.to_q(hidden_states), *project(encoder_hidden_states, self.to_k, self.to_v)]
        return [states.view(*states.shape[:2], -1, self.head_dim) for states in found]


def _normalized(norm: RMSNorm, states: Tensor, rotary: Rotary | None) -> Tensor:
    if rotary is None:
        return rms_norm(norm, states)
    return rotated_rms_norm(norm, states, rotary)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """[B, T, heads, d] queries and [B, L, key heads, d] keys and values to [B, T, heads * d]."""
    batch, length, heads, width = query.shape
    groups = heads // key.shape[2]
    grouped = query.view(batch, length, -1, groups, width).permute(0, 2, 3, 1, 4)  # [B, key heads, G, T, d]
    grouped = grouped.reshape(batch, -1, groups * length, width)
    keys, values = key.transpose(1, 2), value.transpose(1, 2)
    attended = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, dropout_p=dropout)
    return attended.view(batch, -1, groups, length, width).permute(0, 3, 1, 2, 4).reshape(batch, length, -1)


def _attend_in_windows(query: Tensor, key: Tensor, value: Tensor, mask: WindowMask, dropout: float) -> Tensor:
    """``_attend`` where each block of W queries attends to its own keys and those of its two neighbors."""
    (batch, length, heads, width), window = query.shape, mask.window
    blocks, groups = mask.pairs.shape[1], heads // key.shape[2]
    after = blocks * window - length

    def around(states: Tensor) -> Tensor:
        """[B, T, key heads, d] to [B * blocks, 3 W, key heads, d]. For B = 1 the result shares its memory."""
        padded = F.pad(states, (0, 0, 0, 0, window, window + after))
        # Fused attention needs the values of a head side by side, so permute before B and blocks are merged: for B > 1
        # that copies.
        return padded.unfold(1, 3 * window, window).permute(0, 1, 4, 2, 3).flatten(0, 1)

    query = F.pad(query, (0, 0, 0, 0, 0, after)).reshape(batch * blocks, window, heads, width)
    bias = mask.bias(batch, groups, query.dtype)
    attended = _attend(query, around(key), around(value), bias, dropout)
    return attended.reshape(batch, blocks * window, -1)[:, :length]
