"""Checkpoint folders and the modules of ACE-Step 1.5.

The functions below are imported on first access, so importing this package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from acestep.models.load import (
        load_audio_detokenizer,
        load_audio_tokenizer,
        load_condition_encoder,
        load_dit,
        load_null_condition,
        load_silence_latent,
        load_text_encoder,
        load_vae,
    )
    from acestep.models.tiny import create_tiny_checkpoint

__all__ = [
    "create_tiny_checkpoint",
    "load_audio_detokenizer",
    "load_audio_tokenizer",
    "load_condition_encoder",
    "load_dit",
    "load_null_condition",
    "load_silence_latent",
    "load_text_encoder",
    "load_vae",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "tiny" if name == "create_tiny_checkpoint" else "load"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return __all__
