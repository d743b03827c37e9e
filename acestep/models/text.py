"""Caption and lyrics: the exact texts that the model was trained on (SPEC 0.1), and the encoder that reads them."""

from __future__ import annotations

from typing import Any

import torch
from loguru import logger
from torch import Tensor

DEFAULT_INSTRUCTION = "Fill the audio semantic mask based on the given conditions:"
INSTRUMENTAL = "[Instrumental]"
UNKNOWN_LANGUAGE = "unknown"
TEXT_TEMPLATE_VERSION = 1  # counts changes of the two functions below; preprocessed tensors record it
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
    """The text that stands for a song's style; what is unknown becomes N/A."""
    instruction = instruction if instruction.endswith(":") else f"{instruction}:"
    metas = {"bpm": bpm, "timesignature": timesignature, "keyscale": keyscale}
    lines = "".join(f"- {name}: {_known(value)}\n" for name, value in metas.items())
    lines += f"- duration: {int(duration_s)} seconds\n"
    return f"# Instruction\n{instruction}\n\n# Caption\n{caption}\n\n# Metas\n{lines}<|endoftext|>\n"


def _known(value: int | str | None) -> str:
    text = str(value).strip() if value else ""
    return text if text and text != "0" else "N/A"


def format_lyrics(lyrics: str, language: str) -> str:
    """The text that stands for a song's words."""
    words, language = normalize_lyrics(lyrics, language)
    return f"# Languages\n{language}\n\n# Lyric\n{words}<|endoftext|>"


def normalize_lyrics(lyrics: str, language: str) -> tuple[str, str]:
    """The words as the model is told them, and their language; without words: instrumental, in no known language."""
    words = lyrics.strip()
    if not words or words.lower() == INSTRUMENTAL.lower():
        return INSTRUMENTAL, UNKNOWN_LANGUAGE
    return words, language.strip() or UNKNOWN_LANGUAGE


class TextEncoder:
    """Qwen3 embedding model and its tokenizer. One text at a time, so that no padding enters (DESIGN 1.5)."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer = tokenizer
        self.model = model

    @torch.no_grad()
    def encode_prompt(self, text: str) -> Tensor:
        """[Lt, W] last hidden states of a formatted prompt, at most 256 tokens."""
        hidden: Tensor = self.model(input_ids=self._ids(text, MAX_PROMPT_TOKENS, "prompt")).last_hidden_state
        return hidden[0]

    @torch.no_grad()
    def embed_lyrics(self, text: str) -> Tensor:
        """[Ll, W] token embeddings of formatted lyrics, at most 2048 tokens; the lyric encoder does the rest."""
        embedded: Tensor = self.model.get_input_embeddings()(self._ids(text, MAX_LYRIC_TOKENS, "lyrics"))
        return embedded[0]

    def _ids(self, text: str, limit: int, what: str) -> Tensor:
        """[1, L] token numbers, cut at ``limit`` with a warning."""
        num_tokens = len(self.tokenizer(text, verbose=False).input_ids)
        if num_tokens > limit:
            logger.warning("{} cut from {} to the {} tokens that the model reads", what, num_tokens, limit)
        ids: Tensor = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt").input_ids
        return ids.to(self.model.device)
