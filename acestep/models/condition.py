"""Inputs of the decoder besides the latents: condition tokens and context latents."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepTimbreEncoder
from torch import Tensor, nn

# Without reference audio, inference uses the first 30 s of the silence latent (AceStepPipeline, timbre_fix_frame).
REFERENCE_FRAMES = 750


@torch.no_grad()
def encode_condition(encoder: Any, text_hidden: Tensor, lyric_hidden: Tensor, silence: Tensor) -> Tensor:
    """Return the condition of one sample, [L, D]: lyric, timbre and text tokens in this order, without padding.

    Args:
        encoder: the condition encoder; inputs are moved to its device and dtype.
        text_hidden: [Lt, W] from ``TextEncoder.encode_prompt``.
        lyric_hidden: [Ll, W] from ``TextEncoder.embed_lyrics``.
        silence: [1, F, C] the silence latent of the checkpoint, used as reference audio.
    """
    to = {"device": encoder.device, "dtype": encoder.dtype}
    reference = _repeat_to_length(silence, REFERENCE_FRAMES).to(**to)
    tokens: Tensor = encoder(
        text_hidden_states=text_hidden[None].to(**to),
        text_attention_mask=torch.ones(1, len(text_hidden), dtype=torch.bool, device=encoder.device),
        lyric_hidden_states=lyric_hidden[None].to(**to),
        lyric_attention_mask=torch.ones(1, len(lyric_hidden), dtype=torch.bool, device=encoder.device),
        refer_audio_acoustic_hidden_states_packed=reference,
        refer_audio_order_mask=torch.zeros(1, dtype=torch.long, device=encoder.device),
    )[0]
    return tokens[0]


def context_latents(silence: Tensor, num_frames: int) -> Tensor:
    """Return [T, 2C]: silence as source latents, then a generation mask of ones, which means "generate every frame".

    Args:
        silence: [1, F, C], repeated if it is shorter than ``num_frames``.
    """
    source = _repeat_to_length(silence, num_frames)[0]
    return torch.cat([source, torch.ones_like(source)], dim=-1)


def _repeat_to_length(silence: Tensor, num_frames: int) -> Tensor:
    repeats = -(-num_frames // silence.shape[1])
    return silence.repeat(1, repeats, 1)[:, :num_frames]


class TimbreEncoderXL(AceStepTimbreEncoder):
    """The timbre encoder of XL checkpoints: it prepends ``special_token`` and returns the hidden state at its position.

    ``AceStepTimbreEncoder`` of diffusers 0.42.1 ignores the token and returns the hidden state of the first frame,
    which is correct for 2B checkpoints only.
    """

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.embed_tokens.register_forward_hook(self._prepend_special_token)

    def _prepend_special_token(self, _module: nn.Module, _arguments: Any, frames: Tensor) -> Tensor:
        """[N, F, D] -> [N, 1 + F, D]."""
        return torch.cat([self.special_token.expand(len(frames), -1, -1).to(frames.dtype), frames], dim=1)
