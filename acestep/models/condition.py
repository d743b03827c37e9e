"""What the decoder is told: the condition tokens of a song, and the context beside its latents."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.ace_step.modeling_ace_step import AceStepTimbreEncoder
from torch import Tensor, nn

REFERENCE_FRAMES = 750  # 30 s of silence stand for "no reference recording", as at inference (SPEC 2.8)


@torch.no_grad()
def encode_condition(encoder: Any, text_hidden: Tensor, lyric_hidden: Tensor, silence: Tensor) -> Tensor:
    """[L, D] lyric, timbre and text tokens of one song, in this order, without padding.

    Args:
        encoder: the condition encoder; its device and dtype are used.
        text_hidden: [Lt, W] from ``TextEncoder.encode_prompt``.
        lyric_hidden: [Ll, W] from ``TextEncoder.embed_lyrics``.
        silence: [1, F, C] the silence latent.
    """
    place = {"device": encoder.device, "dtype": encoder.dtype}
    reference = _frames_of(silence, REFERENCE_FRAMES).to(**place)
    tokens: Tensor = encoder(
        text_hidden_states=text_hidden[None].to(**place),
        text_attention_mask=torch.ones(1, len(text_hidden), dtype=torch.bool, device=encoder.device),
        lyric_hidden_states=lyric_hidden[None].to(**place),
        lyric_attention_mask=torch.ones(1, len(lyric_hidden), dtype=torch.bool, device=encoder.device),
        refer_audio_acoustic_hidden_states_packed=reference,
        refer_audio_order_mask=torch.zeros(1, dtype=torch.long, device=encoder.device),
    )[0]
    return tokens[0]


def context_latents(silence: Tensor, num_frames: int) -> Tensor:
    """[T, 2C] silence as the source, and ones: "generate all of it". Silence [1, F, C] is repeated where too short."""
    source = _frames_of(silence, num_frames)[0]
    return torch.cat([source, torch.ones_like(source)], dim=-1)


def _frames_of(silence: Tensor, num_frames: int) -> Tensor:
    times = -(-num_frames // silence.shape[1])
    return silence.repeat(1, times, 1)[:, :num_frames]


class TimbreEncoderXL(AceStepTimbreEncoder):
    """The timbre encoder of the XL family: a learned token stands before the frames, and its place is read.

    diffusers 0.42.1 reads the first frame instead, as the 2B family does (DESIGN 1.3).
    """

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.embed_tokens.register_forward_hook(self._put_token_first)

    def _put_token_first(self, _module: nn.Module, _arguments: Any, frames: Tensor) -> Tensor:
        """[N, F, D] -> [N, 1 + F, D]"""
        return torch.cat([self.special_token.expand(len(frames), -1, -1).to(frames.dtype), frames], dim=1)
