"""Map state_dict keys between original checkpoints and diffusers modules.

The mapping is that of ``scripts/convert_ace_step_to_diffusers.py`` in the diffusers repository.
"""

from __future__ import annotations

import re

# original -> diffusers, matched against complete dotted segments; valid for the decoder and the encoders.
_DIFFUSERS_KEYS = {
    "q_proj": "to_q",
    "k_proj": "to_k",
    "v_proj": "to_v",
    "o_proj": "to_out.0",
    "q_norm": "norm_q",
    "k_norm": "norm_k",
    "proj_in.1": "proj_in_conv",
    "proj_out.1": "proj_out_conv",
}
_ORIGINAL_KEYS = {new: old for old, new in _DIFFUSERS_KEYS.items()}

# Key prefix in an original checkpoint -> subfolder of a diffusers checkpoint.
SUBFOLDERS = {
    "decoder.": "transformer",
    "encoder.": "condition_encoder",
    "tokenizer.": "audio_tokenizer",
    "detokenizer.": "audio_token_detokenizer",
}
NULL_CONDITION = (
    "null_condition_emb"  # top-level key of an original checkpoint; in condition_encoder/ of a diffusers one
)


def _pattern(names: dict[str, str]) -> re.Pattern[str]:
    return re.compile(rf"(?<![^.])(?:{'|'.join(map(re.escape, names))})(?![^.])")


_TO_DIFFUSERS, _TO_ORIGINAL = _pattern(_DIFFUSERS_KEYS), _pattern(_ORIGINAL_KEYS)


def original_to_diffusers(key: str) -> str:
    """Return the diffusers key of a module or weight. Keys have no component prefix: ``layers.0.self_attn.q_proj``."""
    return _TO_DIFFUSERS.sub(lambda match: _DIFFUSERS_KEYS[match[0]], key)


def diffusers_to_original(key: str) -> str:
    """Inverse of ``original_to_diffusers``."""
    return _TO_ORIGINAL.sub(lambda match: _ORIGINAL_KEYS[match[0]], key)


def original_key(subfolder: str, key: str) -> str | None:
    """Return the original key of ``key`` in a diffusers ``subfolder``, or None if the original layout has none."""
    if subfolder == "condition_encoder" and key == NULL_CONDITION:
        return key
    if subfolder == "condition_encoder" and key == "silence_latent":
        return None  # a separate file in original checkpoints
    prefix = next(prefix for prefix, name in SUBFOLDERS.items() if name == subfolder)
    return prefix + diffusers_to_original(key)
