"""The two names of every weight: as the original checkpoints write it, and as diffusers' modules do (INTEROP B4)."""

from __future__ import annotations

import re

# original -> diffusers; whole dotted segments, valid in the decoder and in the encoder parts alike.
_RENAMES = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "o_proj": "to_out.0",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
    "proj_in.1": "proj_in_conv",
    "proj_out.1": "proj_out_conv",
}
_BACK = {new: old for old, new in _RENAMES.items()}

# Prefix in an original checkpoint -> folder of a diffusers checkpoint.
SUBFOLDERS = {
    "decoder.": "transformer",
    "encoder.": "condition_encoder",
    "tokenizer.": "audio_tokenizer",
    "detokenizer.": "audio_token_detokenizer",
}
NULL_CONDITION = "null_condition_emb"  # no prefix in an original checkpoint, in condition_encoder/ of a diffusers one


def _pattern(names: dict[str, str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^.])(?:{'|'.join(map(re.escape, names))})(?![^.])")


_FORWARD, _BACKWARD = _pattern(_RENAMES), _pattern(_BACK)


def original_to_diffusers(key: str) -> str:
    """The diffusers name of a module or weight, both relative to their part (``layers.0.self_attn.q_proj``)."""
    return _FORWARD.sub(lambda match: _RENAMES[match[0]], key)


def diffusers_to_original(key: str) -> str:
    """Undo ``original_to_diffusers``."""
    return _BACKWARD.sub(lambda match: _BACK[match[0]], key)


def original_key(folder: str, key: str) -> str | None:
    """The original checkpoint's name of weight ``key`` in a diffusers ``folder``; None where it has none."""
    if folder == "condition_encoder" and key == NULL_CONDITION:
        return key
    if folder == "condition_encoder" and key == "silence_latent":
        return None  # a file of its own in an original checkpoint
    prefix = next(prefix for prefix, part in SUBFOLDERS.items() if part == folder)
    return prefix + diffusers_to_original(key)
