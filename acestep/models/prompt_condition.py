"""The condition of a generation request. Once it is encoded, the encoders are not needed any more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from acestep.models import load
from acestep.models.checkpoint import Checkpoint
from acestep.models.condition import encode_condition
from acestep.models.configs import GenerationConfig
from acestep.models.device import empty_cache, encoder_dtype
from acestep.models.text import TextEncoder, format_lyrics, format_prompt


@dataclass(frozen=True)
class PromptCondition:
    """What the encoders compute for one request, in the place of the condition encoder in ``AceStepPipeline``.

    Attributes:
        tokens: [1, L, D] condition.
        null_condition_emb: [1, 1, D] null condition.
        silence_latent: [1, F, C] latents of silence.
    """

    tokens: Tensor
    null_condition_emb: Tensor
    silence_latent: Tensor

    def __call__(self, **_: Any) -> tuple[Tensor, None]:
        return self.tokens, None

    def to(self, device: torch.device | str) -> PromptCondition:
        """The same on ``device``."""
        return replace(
            self,
            tokens=self.tokens.to(device),
            null_condition_emb=self.null_condition_emb.to(device),
            silence_latent=self.silence_latent.to(device),
        )


def encode_texts(encoder: TextEncoder, request: GenerationConfig) -> tuple[Tensor, Tensor]:
    """Hidden states of the prompt [Lt, W] and embeddings of the lyrics [Ll, W]."""
    prompt = format_prompt(
        request.prompt,
        bpm=request.bpm,
        timesignature=request.timesignature,
        keyscale=request.keyscale,
        duration_s=request.duration_s,
    )
    lyrics = format_lyrics(request.lyrics, request.language)
    return encoder.encode_prompt(prompt), encoder.embed_lyrics(lyrics)


def encode_request(encoder: Any, texts: tuple[Tensor, Tensor]) -> PromptCondition:
    """The condition of ``encode_texts``, computed by the condition encoder."""
    silence = encoder.silence_latent
    return PromptCondition(encode_condition(encoder, *texts, silence)[None], encoder.null_condition_emb, silence)


def load_and_encode(
    checkpoint: Checkpoint, request: GenerationConfig, *, device: torch.device | str, dtype: torch.dtype
) -> PromptCondition:
    """The condition of a request, on the CPU. Each encoder is loaded, used and freed before the next one.

    Args:
        dtype: that of the decoder. With fp16 the encoders compute in fp32.

    Raises CheckpointError.
    """
    to: dict[str, Any] = {"device": device, "dtype": encoder_dtype(dtype)}
    text_encoder = load.load_text_encoder(checkpoint, **to)
    texts = encode_texts(text_encoder, request)
    del text_encoder
    empty_cache(str(device))
    condition_encoder = load.load_condition_encoder(checkpoint, **to)
    condition = encode_request(condition_encoder, texts).to("cpu")
    del condition_encoder
    empty_cache(str(device))
    return condition
