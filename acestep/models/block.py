"""The transformer block: that of diffusers with the same weights, computed with fewer passes over its activations.

Letters: B samples, T tokens, L condition tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from acestep.models.attention import Attention, WindowMask
from acestep.models.fused import Rotary, gated_silu, modulated_rms_norm, rms_norm
from acestep.models.imports import without_bitsandbytes
from acestep.models.projections import project

with without_bitsandbytes():
    from diffusers.models.transformers.ace_step_transformer import AceStepMLP, AceStepTransformerBlock


class Block(nn.Module):
    """``AceStepTransformerBlock`` with the same weights and state_dict keys.

    Args:
        source: the block to take the modules of.
    """

    def __init__(self, source: AceStepTransformerBlock) -> None:
        super().__init__()
        self.self_attn_norm, self.self_attn = source.self_attn_norm, Attention(source.self_attn)
        self.cross_attn_norm, self.cross_attn = source.cross_attn_norm, Attention(source.cross_attn)
        self.mlp_norm, self.mlp = source.mlp_norm, MLP(source.mlp)
        self.scale_shift_table = source.scale_shift_table

    def forward(
        self,
        hidden_states: Tensor,
        rotary: Rotary,
        modulation: Tensor,
        mask: Tensor | WindowMask | None,
        condition: Tensor,
        condition_mask: Tensor | None,
    ) -> Tensor:
        """Self-attention, cross-attention and MLP, each added to ``hidden_states`` [B, T, D].

        Args:
            rotary: embedding of the positions.
            modulation: [B, 6, D] shift, scale and gate of the self-attention and of the MLP.
            mask: attention mask of the self-attention.
            condition: [B, L, D].
            condition_mask: attention mask of the cross-attention.
        """
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = (self.scale_shift_table + modulation).chunk(6, dim=1)
        x = modulated_rms_norm(self.self_attn_norm, hidden_states, shift, scale)
        hidden_states = torch.addcmul(hidden_states, self.self_attn(x, None, mask, rotary), gate)
        x = rms_norm(self.cross_attn_norm, hidden_states)
        hidden_states = hidden_states + self.cross_attn(x, condition, condition_mask)
        x = modulated_rms_norm(self.mlp_norm, hidden_states, mlp_shift, mlp_scale)
        return torch.addcmul(hidden_states, self.mlp(x), mlp_gate)


class MLP(nn.Module):
    """``AceStepMLP`` with the same weights and state_dict keys.

    Args:
        source: the MLP to take the modules of.
    """

    def __init__(self, source: AceStepMLP) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = source.gate_proj, source.up_proj, source.down_proj

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.down_proj(gated_silu(*project(x, self.gate_proj, self.up_proj)))
        return output
