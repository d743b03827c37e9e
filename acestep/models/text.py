"""Format prompts and lyrics the way the model was trained on them, and encode them.

The templates are those of ``AceStepPipeline`` in diffusers and must match it byte for byte.
"""

from __future__ import annotations

from typing import Any

import torch
from loguru import logger
from torch import Tensor

DEFAULT_INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"
INSTRUMENTAL = "[Instrumental]"
UNKNOWN_LANGUAGE = "unknown"
TEXT_TEMPLATE_VERSION = 1  # increase when a template changes; saved in preprocessed tensors
MAX_PROMPT_TOKENS = 256
MAX_LYRIC_TOKENS = 2048


def format_prompt(
    caption: str,
    *,
    bpm: int | str | None,
    timesignature: str | None,
    keyscale: str | None,
    duration_s: float,
    instruction: str = DEFAULT_INSTRUCTION,
) -> str:
    """Return the text prompt. Unknown metadata becomes ``N/A``; the duration is truncated to whole seconds."""
    instruction = instruction if instruction.endswith(":") else f"{instruction}:"
    metas = {"bpm": bpm, "timesignature": timesignature, "keyscale": keyscale}
    lines = "".join(f"- {name}: {_value_or_na(value)}\n" for name, value in metas.items())
    lines += f"- duration: {int(duration_s)} seconds\n"
    return f"# Instruction\n{instruction}\n\n# Caption\n{caption}\n\n# Metas\n{lines}<|endoftext|>\n"


def _value_or_na(value: int | str | None) -> str:
    text = str(value).strip() if value else ""
    return text if text and text != "0" else "N/A"


def format_lyrics(lyrics: str, language: str) -> str:
    """Return the lyrics in the template of the lyric encoder."""
    lyrics, language = normalize_lyrics(lyrics, language)
    return f"# Languages\n{language}\n\n# Lyric\n{lyrics}<|endoftext|>"


def normalize_lyrics(lyrics: str, language: str) -> tuple[str, str]:
    """Return stripped lyrics and their language. Empty lyrics become ``[Instrumental]`` in language ``unknown``."""
    lyrics = lyrics.strip()
    if not lyrics or lyrics.lower() == INSTRUMENTAL.lower():
        return INSTRUMENTAL, UNKNOWN_LANGUAGE
    return lyrics, language.strip() or UNKNOWN_LANGUAGE


class TextEncoder:
    """The Qwen3 embedding model and its tokenizer. Encodes one text at a time, so padding never affects the output."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer = tokenizer
        self.model = model

    @torch.no_grad()
    def encode_prompt(self, text: str) -> Tensor:
        """Return the last hidden states [Lt, W] of a formatted prompt, truncated to 256 tokens with a warning."""
        hidden_states: Tensor = self.model(
            input_ids=self._tokenize(text, MAX_PROMPT_TOKENS, "prompt")
        ).last_hidden_state
        return hidden_states[0]

    @torch.no_grad()
    def embed_lyrics(self, text: str) -> Tensor:
        """Return the token embeddings [Ll, W] of formatted lyrics, truncated to 2048 tokens with a warning.

        These are the inputs of the lyric encoder, which is part of the condition encoder.
        """
        embeddings: Tensor = self.model.get_input_embeddings()(self._tokenize(text, MAX_LYRIC_TOKENS, "lyrics"))
        return embeddings[0]

    def _tokenize(self, text: str, limit: int, what: str) -> Tensor:
        """Token ids [1, L], truncated to ``limit`` with a warning."""
        num_tokens = len(self.tokenizer(text, verbose=False).input_ids)
        if num_tokens > limit:
            logger.warning("{} truncated from {} to {} tokens, the maximum of the model", what, num_tokens, limit)
        ids: Tensor = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").input_ids
        return ids.to(self.model.device)
